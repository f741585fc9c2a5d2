"""What groups differ by: mixins of the estimators."""

from __future__ import annotations

from typing import Any

import numpy as np

from hbsk._base import generator, learnt_by
from hbsk._data.checks import check_coverage
from hbsk._estimators.answers import check_only_factor, point_of
from hbsk._posterior.contrasts import contrast_table, difference_table, read_pairs
from hbsk._posterior.summary import interval_levels, n_rank_draws
from hbsk._shrinkage.draws import difference_moments, draw_means
from hbsk._shrinkage.rates import FittedRates


class PosteriorComparisonsMixin:
    """Differences between groups from the posterior; a mixin of the estimators of partial pooling."""

    random_state: Any

    def compare_groups(self, a, b=None, *, term=None, factor=None, at="zero", coverage=0.95):
        """Return the posterior of the difference between groups, a less b.

        Two groups whose intervals overlap may still differ for sure, and their errors hang together: ask for the
        difference itself.

        Parameters
        ----------
        a : label or list of labels
            Groups that fit has seen.
        b : label or list of labels, default=None
            What they are compared with: lists pair by pair, one label with each of a list. None: all other groups.
        term : str, default=None
            Which varying term to compare, such as "1|county" (the default: the first of the factor) or "floor|county".
        factor : str, default=None
            Which grouping factor the groups are of. With several factors this or `term` must be given.
        at : {"zero", "mean"} or dict of str to value, default="zero"
            Where intercepts are compared, see `group_effects`; without varying slopes it is the same everywhere.
        coverage : float, default=0.95
            Probability of the central intervals.

        Returns
        -------
        table : DataFrame
            One row for each pair: ``group`` (a), ``other`` (b), ``mean``, ``sd``, ``eti95_lb`` and ``eti95_ub`` (named
            by ``coverage``) of the difference, and ``p_greater``, the probability that it is above 0. Exact given the
            nodes of the marginal engine with one factor; of NUTS from its draws; with several factors from 8,000 joint
            draws, with the estimator's `random_state` (0 if it has none). On the scale of the linear predictor: of
            classes and counts the exponential of a difference is an odds ratio or rate ratio.

            The effects of all other factors are the same on both sides: of two classes nested in different schools it
            is the difference within their schools.
        """
        check_coverage(coverage)
        learnt = learnt_by(self)
        seed = 0 if self.random_state is None else self.random_state
        rest = (float(coverage), generator(seed), point_of(self, at))
        return contrast_table(learnt.frame, learnt.fitted.posterior, a, b, term, factor, *rest)


class ShrunkenComparisonsMixin:
    """Differences between shrunken means; a mixin of `JamesSteinEstimator`."""

    def compare_groups(self, a, b=None, *, factor=None, coverage=0.95):
        """Return what is known of the difference between the means of groups, a less b.

        Parameters
        ----------
        a : label or list of labels
            Groups that fit has seen.
        b : label or list of labels, default=None
            What they are compared with: lists pair by pair, one label with each of a list. None: all other groups.
        factor : str, default=None
            Only the grouping factor, whose name need not be given.
        coverage : float, default=0.95
            Probability of the central intervals.

        Returns
        -------
        table : DataFrame
            One row for each pair: ``group`` (a), ``other`` (b), ``mean``, ``sd``, ``eti95_lb`` and ``eti95_ub`` (named
            by ``coverage``) of the difference, and ``p_greater``, the probability that it is above 0. Interval and
            probability are of the joint draws that `rank_groups` takes; ``sd`` is to them as `theta_sd_` is to the
            intervals of groups.
        """
        check_coverage(coverage)
        learnt = learnt_by(self)
        if not learnt.factors:
            raise ValueError("There are no groups to compare: the estimator was fitted without.")
        check_only_factor(learnt.factors, factor)
        (compared,) = learnt.factors
        first, second = read_pairs(a, b, compared.labels, compared.name)
        n_draws, rng = n_rank_draws(compared.n_groups), np.random.default_rng(0)
        if isinstance(learnt.means, FittedRates):
            theta = learnt.means.draw(n_draws, 0, rng)
            drawn = theta[:, first] - theta[:, second]
            mean, sd = drawn.mean(axis=0), drawn.std(axis=0)
        else:
            mean, sd = difference_moments(learnt.means, first, second)
            if not np.isfinite(sd).all():
                raise ValueError(
                    "The groups cannot be compared: the variance within them, and so their sd, is not known."
                )
            theta = draw_means(learnt.means, n_draws, rng).theta
        apart = theta[:, first] - theta[:, second]
        apart += mean - apart.mean(axis=0)
        ends, p_greater = np.quantile(apart, interval_levels(float(coverage)), axis=0).T, np.mean(apart > 0, axis=0)
        return difference_table(compared.labels, first, second, mean, sd, ends, p_greater, float(coverage))
