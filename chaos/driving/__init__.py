"""What is driven: Toxiproxy, Redis servers, processes, containers. Nothing in here knows a scenario."""
