"""The kinds of models that are trained."""

import pytest

from proteus_cli.errors import BackendUnavailable, UsageError
from proteus_cli.variants.training import recipes as ladder
from proteus_cli.variants.training.ladder import LADDER
from proteus_cli.variants.training.recipes import chosen, kinds_of, require_packages


def test_chosen_kinds_are_trained_in_the_order_of_the_ladder() -> None:
    assert chosen(None) == LADDER
    assert chosen("mlp-16,linear") == ("linear", "mlp-16")
    with pytest.raises(UsageError, match="no kind of model `cnn-8`"):
        chosen("linear,cnn-8")


def test_training_needs_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailable, match="`scikit-learn`") as raised:
        require_packages()
    assert raised.value.hint == "pip install scikit-learn skl2onnx"


def test_variants_are_named_for_their_kinds() -> None:
    assert kinds_of("wine", ["wine-forest-8", "wine-linear", "wine-of-mine"]) == ("linear", "forest-8")
