"""One session of an agent in a process of its own.

`lifecycle`, `plan`, `swap`, `json_stream` and `structured` are pure. `staging`
builds what a config describes, `session` lets a running LiveKit session follow
its bundle, `text` and `voice` are the entry points. Nothing is imported here:
the node's main process needs `staging` alone.
"""

__all__: list[str] = []
