"""What a JSON document of a fitted estimator may hold besides numbers and text: classes by name."""

from __future__ import annotations

from hbsk._base import LearntMeans
from hbsk._data.encoded_labels import EncodedLabels
from hbsk._data.factor import Factor
from hbsk._data.labels import GroupFactor
from hbsk._data.sources import FactorSource
from hbsk._engine.crossed import CrossedModel
from hbsk._engine.crossed_sums import CrossedSums, PairSums
from hbsk._engine.effect_laws import EffectLaw
from hbsk._engine.generalized.inner import EffectMoments
from hbsk._engine.log_density_surface import LogDensitySurface
from hbsk._engine.marginal import MarginalModel
from hbsk._engine.propriety import GrowingSds, Tails
from hbsk._engine.scaling import ColumnScaling
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.sums import GroupSums, Moments
from hbsk._engine.variance_law import VarianceLaw, VariancePointsSample
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import Location
from hbsk._fit.learnt import BesideSums, Fitted, Learnt
from hbsk._model.design import Component, Recipe
from hbsk._model.expressions import Call, Name, Operation, Value
from hbsk._model.frame import ModelFrame
from hbsk._model.specification import Specification
from hbsk._posterior.crossed import CrossedPosterior
from hbsk._posterior.draws import DrawsLocation, DrawsPosterior
from hbsk._posterior.generalized import GeneralizedPosterior
from hbsk._posterior.no_pooling import NoPoolingPosterior, SeparateGroups
from hbsk._posterior.nodes import MarginalPosterior
from hbsk._posterior.orders import RowOrders
from hbsk._shrinkage.averaged_variance import AveragedVariance, KnownGroups
from hbsk._shrinkage.conjugate import RateNodes
from hbsk._shrinkage.linear_predictor import Directions, LinearPredictor
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.rates import FittedRates
from hbsk._shrinkage.shrunken_groups import Departures
from hbsk._shrinkage.within_groups import WithinSlopes
from hbsk.classification import PartialPoolingClassifier
from hbsk.counts import PartialPoolingCountRegressor
from hbsk.encoder import EncodedColumn, LearntEncodings, PartialPoolingEncoder
from hbsk.james_stein import JamesSteinEstimator
from hbsk.partial_pooling import PartialPoolingRegressor

ESTIMATORS = {
    cls.__name__: cls
    for cls in (
        PartialPoolingRegressor, PartialPoolingClassifier, PartialPoolingCountRegressor, JamesSteinEstimator,
        PartialPoolingEncoder,
    )
}  # fmt: skip
CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        AveragedVariance, BesideSums, Call, ColumnScaling, Component, CrossedModel, CrossedPosterior, CrossedSums,
        Departures, Directions, DrawsLocation, DrawsPosterior, EffectLaw, EffectMoments, EncodedColumn, EncodedLabels,
        Factor, FactorSource, Fitted, FittedMeans, FittedRates, GeneralizedPosterior, GroupFactor, GroupSums,
        GrowingSds, KnownGroups, Learnt, LearntEncodings, LearntMeans, LinearPredictor, Location, LogDensitySurface,
        MarginalModel, MarginalPosterior, ModelFrame, Moments, Name, NoPoolingPosterior, Operation, PairSums,
        RateNodes, Recipe, RowOrders, SdPrior, SeparateGroups, Specification, Tails, Value, VarianceLaw,
        VarianceParameters, VariancePointsSample, WithinSlopes,
    )
}  # fmt: skip
