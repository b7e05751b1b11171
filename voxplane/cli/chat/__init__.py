"""`voxplane chat`: a text session on a node of this machine."""

from voxplane.cli.chat.command import command
from voxplane.cli.chat.session import ChatSession, open_session, relay_socket

__all__ = ["ChatSession", "command", "open_session", "relay_socket"]
