"""Which kinds of models are trained on which rows."""

import pytest

from proteus_cli.errors import BackendUnavailable, UsageError
from proteus_cli.variants.training import ladder
from proteus_cli.variants.training.ladder import CONVNETS, KINDS, LADDER, chosen, for_rows, kinds_of, require_packages
from proteus_cli.variants.training.layout import Layout, layout_of

PICTURE, FEATURES = (28, 28), (13,)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((16,), Layout(1, 1, has_channels=False)),
        ((3, 128), Layout(1, 3, has_channels=True)),
        ((128, 3), Layout(1, 3, has_channels=True, channels_last=True)),
        ((8, 8), Layout(2, 1, has_channels=False)),
        ((1, 28, 28), Layout(2, 1, has_channels=True)),
        ((3, 32, 48), Layout(2, 3, has_channels=True)),
        ((32, 48, 3), Layout(2, 3, has_channels=True, channels_last=True)),
        ((16, 32, 32), Layout(2, 16, has_channels=True)),
        ((32, 16, 16), Layout(2, 16, has_channels=True, channels_last=True)),
    ],
)
def test_pictures_and_signals_are_known_by_their_shape(shape: tuple[int, ...], layout: Layout) -> None:
    assert layout_of(shape) == layout


@pytest.mark.parametrize("shape", [(15,), (4, 15), (7, 5), (3, 7, 100), (100, 200, 300), (2, 8, 8, 8), (1,)])
def test_other_rows_are_neither(shape: tuple[int, ...]) -> None:
    assert layout_of(shape) is None


def test_all_that_fit_are_trained_where_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "has_torch", lambda: True)
    assert for_rows(None, PICTURE) == KINDS
    assert for_rows(None, FEATURES) == LADDER
    monkeypatch.setattr(ladder, "has_torch", lambda: False)
    assert for_rows(None, PICTURE) == LADDER


def test_what_is_chosen_is_trained_in_the_order_of_the_ladder() -> None:
    assert chosen(None) is None
    kinds = chosen("cnn-8, mlp-16,linear")
    assert kinds == ("linear", "mlp-16", "cnn-8")
    assert for_rows(kinds, PICTURE) == kinds
    with pytest.raises(UsageError, match="no kind of model `cnn-9`"):
        chosen("linear,cnn-9")


def test_convolutional_nets_are_refused_for_rows_that_they_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"`cnn-8` is for pictures and signals, and rows of shape \[13\] are neither"):
        for_rows(("linear", "cnn-8"), FEATURES)


def test_each_kind_needs_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "find_spec", lambda name: None if name == "torch" else object())
    require_packages(None)
    require_packages(LADDER)
    with pytest.raises(BackendUnavailable, match="`torch`") as raised:
        require_packages(("linear", "cnn-8"))
    assert raised.value.hint == "pip install torch"
    monkeypatch.setattr(ladder, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailable, match="`scikit-learn`") as raised:
        require_packages(None)
    assert raised.value.hint == "pip install scikit-learn skl2onnx"


def test_variants_are_named_for_their_kinds() -> None:
    assert kinds_of("wine", ["wine-cnn-8", "wine-linear", "wine-of-mine"]) == ("linear", CONVNETS[0])
