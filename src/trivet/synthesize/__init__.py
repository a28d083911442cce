"""One file a data recipe: each makes one data set, with a datasheet, from others.

>>> from trivet.synthesize import preference_set, write_mixture
>>> from trivet.synthesize.heuristic_mixture import Config, mix
>>> rows = [{"prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "dimension": "helpfulness"}]
>>> mix(Config(), [preference_set(rows, name="mine")]).dataset.column_names
['prompt', 'chosen', 'rejected', 'dimension', 'source']
"""

from trivet.synthesize._datasheet import Datasheet as Datasheet
from trivet.synthesize._datasheet import Written as Written
from trivet.synthesize._datasheet import write_mixture as write_mixture
from trivet.synthesize._mixture import Mixture as Mixture
from trivet.synthesize._pairs import Pair as Pair
from trivet.synthesize._pairs import PreferenceSet as PreferenceSet
from trivet.synthesize._pairs import preference_set as preference_set
from trivet.synthesize._pairs import read_preference_set as read_preference_set
