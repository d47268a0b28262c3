"""The pictures of a study of peaks can be read."""

import pytest
from matplotlib.figure import Figure

from proteus_cli.studies.pages.peak import label_logarithmic


@pytest.mark.parametrize("rates_qps", [(598.0, 612.0), (520.0, 980.0), (138.0, 550.0), (12.0, 900.0), (0.2, 0.45)])
def test_rates_have_some_numbers_however_near_they_are(rates_qps: tuple[float, float]) -> None:
    axes = Figure().add_subplot()
    axes.plot(rates_qps, (1.0, 2.0))
    axes.set_xscale("log")
    label_logarithmic(axes.xaxis, rates_qps)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 3 <= len(ticks) <= 8
    assert len(set(axes.xaxis.get_major_formatter().format_ticks(ticks))) == len(ticks)
