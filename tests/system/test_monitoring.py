"""The alert rules in Prometheus' own hands: each speaks up for what it is about, and for that alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.fabric.base import base_layers
from tests.fabric.command import run
from tests.repo.catalog import ALERTS

RULES = [rule["alert"] for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]]
STEP_S, UNTIL_S = 15, 9 * 3600
STEPS = UNTIL_S // STEP_S
Series = dict[str, str]


def on_both(metric: str, h1: str, h2: str, labels: str = "") -> Series:
    """A metric of two hosts; values as promtool writes them: first, change per step, steps."""
    more = f",{labels}" if labels else ""
    return {f'{metric}{{job="hostagent",instance="{host}"{more}}}': value for host, value in (("h1", h1), ("h2", h2))}


ONE, ZERO = f"1x{STEPS}", f"0x{STEPS}"
WELL: Series = {
    'hostagent_vip_info{job="hostagent",instance="h1",vip="192.0.2.1"}': ONE,
    **on_both("up", ONE, ONE),
    **on_both("hostagent_vips", ONE, ONE),
    **on_both("hostagent_vips_held", ONE, ZERO),
    **on_both("hostagent_bgp_session_up", ONE, ONE, 'peer="tor"'),
    **on_both("hostagent_bfd_session_up", ONE, ONE, 'peer="tor"'),
    **on_both("hostagent_bgp_pending_prefixes", ZERO, ZERO),
    **on_both("hostagent_conflicts_total", ZERO, ZERO),
    **on_both("hostagent_addresses_set_aside", ZERO, ZERO),
    **on_both("hostagent_services_pending", ZERO, ZERO),
    **on_both("hostagent_allocator_leads", ONE, ZERO),
    **on_both("hostagent_api_reachable", ONE, ONE),
    **on_both("hostagent_session_renewed_ago_seconds", f"4x{STEPS}", f"2x{STEPS}"),
    **on_both("hostagent_certificate_expiry_timestamp_seconds", f"31536000x{STEPS}", f"31536000x{STEPS}"),
    **on_both("hostagent_refutations_total", ZERO, ZERO),
    # suspected once, and refuted
    **on_both("hostagent_suspicions_total", f"0x{STEPS - 8} 1x8", ZERO, 'outcome="suspected"'),
    **on_both("hostagent_suspicions_total", f"0x{STEPS - 8} 1x8", ZERO, 'outcome="refuted"'),
    **on_both("hostagent_draining", ZERO, ZERO),
    **on_both("hostagent_moves_total", ZERO, ZERO),
    **on_both("hostagent_config_faults", ZERO, ZERO, 'severity="error"'),
}
LATELY = f"0+0x{STEPS - 8} 1+1x8"
WRONG: dict[str, Series] = {
    "VipAnsweredTwice": {'hostagent_vip_info{job="hostagent",instance="h2",vip="192.0.2.1"}': ONE},
    "VipsNotAnswered": on_both("hostagent_vips_held", ZERO, ZERO),
    "BgpSessionDown": on_both("hostagent_bgp_session_up", ZERO, ONE, 'peer="tor"'),
    "BgpPrefixesNotAnnounced": on_both("hostagent_bgp_pending_prefixes", ONE, ZERO),
    "AddressConflict": on_both("hostagent_conflicts_total", LATELY, ZERO),
    "ServicesWithoutAddress": on_both("hostagent_services_pending", ONE, ZERO),
    "NobodyAllocates": on_both("hostagent_allocator_leads", ZERO, ZERO),
    "HostCannotReachApi": on_both("hostagent_api_reachable", ZERO, ONE),
    "CertificateEnds": on_both(
        "hostagent_certificate_expiry_timestamp_seconds", f"864000x{STEPS}", f"31536000x{STEPS}"
    ),
    "HostSuspectedOften": on_both("hostagent_refutations_total", LATELY, ZERO),
    "HostDied": on_both("hostagent_suspicions_total", ZERO, ZERO, 'outcome="refuted"'),
    "HostDrained": on_both("hostagent_draining", ONE, ZERO),
    "VipsMoveOften": on_both("hostagent_moves_total", LATELY, ZERO),
    "ConfigurationFaulty": on_both("hostagent_config_faults", ONE, ZERO, 'severity="error"'),
    "AgentDown": on_both("up", ONE, ZERO),
}


@pytest.fixture(scope="module")
def promtool(fabric_machine: None) -> Path:  # noqa: ARG001
    """Debian's, out of a layer that no host gets."""
    return base_layers(add=("prometheus",))[0] / "usr/bin/promtool"


def test_prometheus_finds_no_fault_with_the_rules(promtool: Path) -> None:
    said = run([str(promtool), "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS)]).stdout
    assert f"{len(RULES)} rules found" in said


@pytest.mark.parametrize("alert", ["none", *RULES])
def test_an_alert_speaks_up_for_what_it_is_about_and_no_other_does(promtool: Path, tmp_path: Path, alert: str) -> None:
    series = WELL | (WRONG[alert] if alert != "none" else {})
    firing = "count by (alertname) (ALERTS{alertstate='firing'})"
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert != "none" else []
    story = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": f"{STEP_S}s",
        "tests": [
            {
                "interval": f"{STEP_S}s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [{"expr": firing, "eval_time": f"{UNTIL_S}s", "exp_samples": expected}],
            }
        ],
    }
    (tmp_path / "story.yml").write_text(yaml.safe_dump(story))
    run([str(promtool), "test", "rules", str(tmp_path / "story.yml")])
