"""NATS JetStream for busframe: an own pipelined publisher, an own continuous pull, streams of its own subjects."""
