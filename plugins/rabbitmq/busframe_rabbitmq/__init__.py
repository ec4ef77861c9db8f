"""RabbitMQ for busframe: quorum queues, headers exchanges, publisher confirms."""
