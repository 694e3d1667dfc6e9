"""How old usage may be: each sink goes by the figure that commands tell."""

import pytest

from aggregator.core.age_limits import FURTHEST, MARGIN, most_past
from aggregator.core.model import Limits
from aggregator.sinks.files.sink import LIMITS as FILES
from aggregator.sinks.metronome.sink import LIMITS as METRONOME
from aggregator.sinks.stripe.limits import LIMITS as STRIPE


@pytest.mark.parametrize(
    ("sink_type", "limits"),
    [("stripe", STRIPE), ("metronome", METRONOME), ("directory", FILES), ("s3", FILES)],
)
def test_a_sink_takes_what_is_told(sink_type: str, limits: Limits) -> None:
    """What `status` says can still be billed is what the planner lets go, and no adoption looks further back."""
    assert limits.past == most_past(sink_type) <= FURTHEST - MARGIN
