"""Logs of a job, as its node wants them."""

from __future__ import annotations

import os
from typing import get_args

from agent_node.job.library_logs import quieten_libraries
from agent_node.logs import LogLevel, configure_logs

NODE_ID_ENV = "VOXPLANE_NODE_ID"
LOG_FORMAT_ENV = "VOXPLANE_LOG_FORMAT"
LOG_LEVEL_ENV = "VOXPLANE_LOG_LEVEL"


def configure_job_logs() -> None:
    """Write lines by the settings that the node has put into the environment,
    of libraries nothing that they quote."""
    wanted = os.environ.get(LOG_LEVEL_ENV)
    level: LogLevel = next((level for level in get_args(LogLevel) if level == wanted), "info")
    log_format = "console" if os.environ.get(LOG_FORMAT_ENV) == "console" else "json"
    configure_logs(log_format, os.environ.get(NODE_ID_ENV, ""), level)
    quieten_libraries()
