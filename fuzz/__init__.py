"""What strangers send, made up by a machine: `make fuzz`. The suite replays the corpus."""
