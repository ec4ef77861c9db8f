"""Apache Kafka for busframe: an idempotent producer, a thread for each consumer, delays through a ladder of topics."""
