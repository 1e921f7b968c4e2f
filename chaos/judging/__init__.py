"""What a run comes to, from its history alone: nothing in here drives, waits or asks."""
