"""What an application writes: handlers, what they are given, what they may answer."""
