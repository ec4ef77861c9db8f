"""A transport for busframe: a directory of files is the broker, shared by all processes that can see it."""
