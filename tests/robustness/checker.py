"""Checks a history: pure functions over its records."""

from __future__ import annotations

from tests.robustness.commits import CommitChecker
from tests.robustness.findings import Findings, Property
from tests.robustness.history import Converged, Fetched, Final, History
from tests.robustness.logs import Logs, Scope, logs_of
from tests.robustness.watches import WatchChecker
from voxplane.digest import bundles_digest


def check(history: History) -> Findings:
    """All that is wrong with a history, which is in the order of time."""
    findings = Findings()
    logs = logs_of(history)
    CommitChecker(history, logs, findings).run()
    WatchChecker(history, logs, findings).run()
    for record in history:
        match record:
            case Final():
                _check_final(record, logs, findings)
            case Fetched():
                _check_fetched(record, logs, findings)
            case Converged():
                findings.require(record.converged, Property.CONVERGED, f"behind are {record.lagging}", record)
            case _:
                pass
    return findings


def _check_final(final: Final, logs: Logs, findings: Findings) -> None:
    """The watcher has all tenants that it watches, at the newest state."""
    epoch = logs.last_epoch
    scope = Scope.of(final.tenant, final.agent_ids, final.labels)
    wanted = logs.tenants(epoch) if final.tenant == "-" else [final.tenant]
    # A backup may be older than a tenant; who has had it then holds it empty.
    missing = set(wanted) - set(final.held)
    findings.require(not missing, Property.CONVERGED, f"tenants {sorted(missing)} are missing", final)
    for tenant, held in final.held.items():
        log = logs.get(epoch, tenant)
        right = log.shown(scope, log.head)
        findings.require(
            held.at.epoch == epoch and held.etags | held.withheld == right,
            Property.CONVERGED,
            f"{final.watcher} has not what tenant {tenant} shows at {log.head}: {right}",
            final,
        )
        # Changes of what is not watched may still be untold.
        since = log.head
        while since > 0 and log.shown(scope, since - 1) == right:
            since -= 1
        findings.require(
            since <= held.at.number <= log.head,
            Property.CONVERGED,
            f"{final.watcher} is at {held.at.number} of {tenant}; its newest change is {since}",
            final,
        )


def _check_fetched(fetched: Fetched, logs: Logs, findings: Findings) -> None:
    """FetchConfig shows the newest state of the log."""
    log = logs.get(logs.last_epoch, fetched.tenant)
    right = log.shown(Scope(fetched.tenant), log.head)
    findings.require(
        (fetched.at.epoch, fetched.at.number, fetched.etags) == (logs.last_epoch, log.head, right)
        and fetched.digest == bundles_digest(right),
        Property.PROVEN,
        f"the log's head is {log.head}: {right}",
        fetched,
    )
