"""What the model of a session may call: HTTP tools, tools of MCP servers, and
those that end the session or hand it on.

    tools = await build_tools(config, context, announcements=said, on_call=count)
    Agent(tools=tools.tools)
    ...
    await tools.aclose()
"""

from agent_node.job.tools.build import ToolSet, build_tools
from agent_node.job.tools.calls import OnCall, ToolCall

__all__ = ["OnCall", "ToolCall", "ToolSet", "build_tools"]
