"""What a flooding key costs another one, in simulated time: the same on every machine."""

from __future__ import annotations

import pytest

from benchmarks import fair_share
from benchmarks.figures import percentile


@pytest.mark.slow
def test_a_flooding_key_costs_another_at_most_a_fifth_of_its_p95():
    alone, beside, as_they_come = (
        percentile(fair_share.Simulation(flooding).run(25), 95) for flooding in fair_share.FLOODS.values()
    )
    assert beside <= 1.2 * alone
    assert as_they_come > 1.5 * alone, "the same flood, without turns between keys"


@pytest.mark.slow
def test_the_report_has_all_three(tmp_path, capsys):
    assert fair_share.main(["--quick", "--results", str(tmp_path)]) == 0
    report = (tmp_path / "fair_share.md").read_text()
    assert all(label in report for label in fair_share.FLOODS)
    assert report in capsys.readouterr().out
