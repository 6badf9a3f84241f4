"""Tasks with a broken name, option or recipe."""

from __future__ import annotations

from typing import Any

from ssl_zoo import Encoder, Field
from tests.core.broken_tasks.declare import EVERYTHING, TRAINING, broken
from tests.core.sound_tasks import Sound


@broken("describes_itself", "no docstring, which `ssl-zoo tasks` shows")
class WithoutDocstring(Sound):
    pass


@broken("describes_itself", "WithoutName has no `name`")
class WithoutName(Sound):
    """Its name is empty."""

    name = ""


@broken("describes_itself", "OptionNamedName has an option `name`, which is reserved")
class OptionNamedName(Sound):
    """An option would take the place of the task's name in a config."""

    class Options(Sound.Options):
        name: str = Field("blue", description="colour")


@broken("options_round_trip", r"option scales: \(0.5, 1.0\) is \[0.5, 1.0\] once written and read")
class DefaultThatYamlDoesNotKnow(Sound):
    """A tuple comes back as a list, because the option is typed `Any`."""

    class Options(Sound.Options):
        scales: Any = Field((0.5, 1.0), description="of crops")


@broken(
    "options_round_trip",
    "option momentum: its own default is refused: .*less than or equal to 1",
)
class DefaultOutOfRange(Sound):
    """Pydantic validates a default only once it is read from a file."""

    class Options(Sound.Options):
        momentum: float = Field(1.5, le=1, description="of the teacher")


@broken("options_refuse_nonsense", "an option that it does not have is accepted")
class OptionsThatTakeAnything(Sound):
    """A misspelt option would go unnoticed."""

    class Options(Sound.Options, extra="allow"):
        pass


@broken("options_refuse_nonsense", "option weight accepts nan")
class OptionThatTakesNan(Sound):
    """A weight of nan ends the run at its first step."""

    class Options(Sound.Options, allow_inf_nan=True):
        weight: float = Field(1.0, description="factor on the loss")


@broken("can_be_built", r"RuntimeError: no such head at .*definition\.py:\d+")
class HeadThatCannotBeBuilt(Sound):
    """Its error is told once, and the checks that need the task do not run."""

    def __init__(self, encoder: Encoder, options: Any, spec: Any) -> None:
        raise RuntimeError("no such head")


@broken("recipe_is_valid", "train.optimizer: timm has no optimiser 'larz'.*'lars'", also=TRAINING)
class RecipeOfAnUnknownOptimiser(Sound):
    """The name of the optimiser is misspelt."""

    recipe = {"train": {"optimizer": "larz"}}


@broken("recipe_is_valid", "the recipe's train.learning_rate: there is no such setting", also=TRAINING)
class RecipeOfAnUnknownKey(Sound):
    """The setting's name is lr."""

    recipe = {"train": {"learning_rate": 0.1}}


@broken("recipe_is_valid", "the recipe has no section 'optimizer': data, backbone, train")
class RecipeWithoutSections(Sound):
    """A setting of the train section stands outside of it."""

    recipe = {"optimizer": "lars"}


@broken(
    "describes_itself",
    "RecipeThatIsNoMapping has a `recipe` that is not a mapping: 'lars'",
    also=EVERYTHING,
)
class RecipeThatIsNoMapping(Sound):
    """The recipe is a string instead of a mapping."""

    recipe: Any = "lars"


@broken(
    "recipe_is_valid",
    "the recipe's backbone.nmae: there is no such setting. Did you mean 'name'",
)
class RecipeOfNoBackbone(Sound):
    """The setting's name is misspelt."""

    recipe = {"backbone": {"nmae": "resnet18"}}
