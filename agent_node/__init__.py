"""The agent node: one stream upstream, a cache, a relay, and the jobs."""
