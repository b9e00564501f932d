"""Online detectors, all with River's interface: `update(x)`, `drift_detected`, `warning_detected`, `clone()`.

Two are ours and may page a human, because their false alarms are bounded by a proof: `categorical` and `binned`. The
others are River's own. `adwin` is the warning tier; the rest is there for experiments and comparisons and never pages.
"""

from river.base import DriftDetector
from river.base.drift_detector import BinaryDriftDetector
from river.drift import ADWIN, KSWIN, PageHinkley
from river.drift.binary import DDM, EDDM, FHDDM

from monitors.detectors.binned import BinnedEDetector as BinnedEDetector
from monitors.detectors.categorical import CategoricalEDetector as CategoricalEDetector

DETECTORS: dict[str, type[DriftDetector] | type[BinaryDriftDetector]] = {
    "categorical": CategoricalEDetector,
    "binned": BinnedEDetector,
    "adwin": ADWIN,
    "page-hinkley": PageHinkley,
    "kswin": KSWIN,
    "ddm": DDM,
    "eddm": EDDM,
    "fhddm": FHDDM,
}
