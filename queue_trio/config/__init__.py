"""The settings as people write them: reading, judging, describing. What they are is `core.settings`."""
