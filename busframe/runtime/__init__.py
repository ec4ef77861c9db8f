"""The only asyncio machinery: what receives, runs handlers, settles, and drains."""
