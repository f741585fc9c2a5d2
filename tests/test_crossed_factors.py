"""Tables and displays of a model with two grouping factors of unequal sizes, integrated and sampled by NUTS."""

import matplotlib
import numpy as np
import pytest

from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, RankDisplay, ShrinkageDisplay
from hbsk.predictive_checks import per_group, posterior_predictive_check

matplotlib.use("agg")


def test_group_effects_list_every_factor(crossed_by_both):
    model, _, _ = crossed_by_both
    table = model.group_effects(coverage=0.9)
    sizes = table.groupby(["factor", "term"], sort=False).size()
    assert sizes.to_dict() == {("pupil", "1|pupil"): 7, ("pupil", "x|pupil"): 7, ("topic", "1|topic"): 3}
    assert table["group"].tolist() == [*"abcdefg", *"abcdefg", 1, 2, 3]
    assert table["n"].tolist() == [9] * 14 + [21] * 3
    assert table["no_pooling"].notna().all()
    assert (table["eti90_lb"] < table["mean"]).all()
    assert (table["mean"] < table["eti90_ub"]).all()
    intercepts = model.to_datatree(random_state=0)["posterior"]
    of_topics = (intercepts["Intercept"] + intercepts["1|topic"]).mean(["chain", "draw"])
    tolerance = 1e-7 if model.inference_.startswith("nuts") else 5 * table["sd"].max() / 200**0.5
    np.testing.assert_allclose(table["mean"][-3:], of_topics, rtol=tolerance)


@pytest.mark.parametrize("term", ["1|pupil", "x|pupil", "1|topic"])
@pytest.mark.parametrize("display", [ShrinkageDisplay, GroupSizeDisplay, GroupEffectsDisplay, RankDisplay])
def test_displays_show_the_factor_of_the_term(crossed_by_both, display, term):
    import matplotlib.pyplot as plt

    shown = display.from_estimator(crossed_by_both[0], term=term)  # test_group_effects.py draws such figures
    assert len(shown.labels) == (3 if "topic" in term else 7)
    plt.close("all")


def test_checks_of_groups_name_their_factor(crossed_by_both):
    model, X, y = crossed_by_both
    check = posterior_predictive_check(model, X, y, statistics=per_group("mean", factor="topic"), n_samples=50)
    assert check.p_value.index.tolist() == [f"group_mean[{topic}]" for topic in (1, 2, 3)]
