"""What happens to messages when processes, servers and connections die: every run ends in an account of each message."""
