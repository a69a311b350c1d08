"""A network of the user's own: found by its dotted name, described by options, or told what is wrong."""

import sys

import pytest
import torch

from vidattr_bench import plugins
from vidattr_bench.checkpoints import save_checkpoint
from vidattr_bench.errors import ModelError, PluginError
from vidattr_bench.model import ClipInput
from vidattr_bench.zoo import create_model

OWN = """
import torch
from torch import nn
from vidattr_bench.model import ClipInput, VideoModel

class Net(nn.Sequential):
    def __init__(self, classes=5):
        pool = nn.AdaptiveAvgPool3d(1)
        super().__init__(nn.Conv3d(3, 4, (1, 3, 3)), nn.ReLU(), pool, nn.Flatten(), nn.Linear(4, classes))

def plain():
    torch.manual_seed(0)
    return Net()

def sized(num_classes=5):
    return Net(num_classes)

def described():
    return VideoModel(Net(2), ["a", "b"], feature_layer="1", input=ClipInput(length=3), name="mine")

def asking(num_classes):
    return Net(num_classes)

def fails():
    raise ZeroDivisionError("division by zero")

def number():
    return 3

weights = [1]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(OWN)
    (package / "broken.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_a_plain_module_becomes_a_model(own):
    options = 'length=4,size="[24,40]",resize="[30,50]",mean="[0.1,0.2,0.3]",std="[0.4,0.5,0.6]",feature_layer=0'
    entry = create_model(f"own_package.nets:plain,{options}")
    model = entry.build()
    assert entry.input == model.input == ClipInput(length=4, size=(24, 40), resize=(30, 50))
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.classes == ()
    assert model.feature_layer(torch.rand(1, 3, 4, 24, 40)) == "0"
    assert create_model(plugins.full_spec("models", entry)) == entry
    assert create_model("factory:callable=own_package.nets.plain").build().weights_hash() == model.weights_hash()


def test_a_video_model_describes_itself(own):
    model = create_model("own_package.nets:described").build()
    assert (model.classes, model.name, model.input.length) == (("a", "b"), "mine", 3)
    with pytest.raises(ModelError, match="describes itself: leave out length="):
        create_model("own_package.nets:described,length=4").build()


def test_a_checkpoint_is_loaded_strictly_and_names_the_classes(own):
    import own_package.nets as nets

    net = nets.sized(3)
    torch.save({"state_dict": net.state_dict(), "classes": ["x", "y", "z"]}, own / "own.pth")
    model = create_model(f"own_package.nets:sized,checkpoint={own / 'own.pth'}").build()
    assert model.classes == ("x", "y", "z")
    assert torch.equal(model.net[4].weight, net[4].weight)
    with pytest.raises(
        ModelError, match=r"own.pth does not hold the weights of this Net: 2 of another shape: 4.weight"
    ):
        create_model(f"own_package.nets:plain,checkpoint={own / 'own.pth'}").build()


def test_options_go_before_what_train_recorded(own):
    record = {"classes": ["x", "y"], "mean": [0.1] * 3, "std": [0.2] * 3, "input": {"length": 7, "size": [24, 40]}}
    entry = create_model("own_package.nets:Net")
    save_checkpoint(own / "own.safetensors", entry.network(2), record)
    checkpoint = f"checkpoint={own / 'own.safetensors'}"
    assert create_model(f"own_package.nets:Net,{checkpoint}").build().input == ClipInput(length=7, size=(24, 40))
    model = create_model(f'own_package.nets:Net,{checkpoint},length=9,mean="[0.3,0.3,0.3]"').build()
    assert model.input == ClipInput(length=9, size=(24, 40))
    assert model.mean.flatten().tolist() == pytest.approx([0.3] * 3)
    assert model.std.flatten().tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_pakage.nets:plain", "no module 'own_pakage'; start python -m vidattr_bench in the folder"),
        ("own_package.net:plain", "own_package has no 'net'; did you mean nets"),
        ("own_package.nets:plane", "own_package.nets has no 'plane'; did you mean plain"),
        (
            "own_package.broken:plain",
            "own_package.broken does not import: ModuleNotFoundError.*a_module_that_is_missing",
        ),
        ("own_package.nets:fails", "own_package.nets.fails failed: ZeroDivisionError"),
        ("own_package.nets:asking", "num_classes.*it asks for num_classes: give classes_file="),
        ("own_package.nets:number", "returned int, not a torch.nn.Module"),
        ("own_package.nets:weights", "is a list; name a function"),
        ("factory:callable=own_package.nets", "is a module; name a function"),
        ("own_package.nets:plain,feature_layer=9", "feature_layer='9' names no module"),
        ("own_package.nets:plain,mean=[0.5]", "both mean and std"),
        ("own_package.nets:plain,checkpoint=nowhere.pth", "there is no checkpoint nowhere.pth"),
    ],
)
def test_what_is_wrong_with_a_factory_is_named(own, text, message):
    with pytest.raises(ModelError, match=message):
        create_model(text).build()


def test_a_video_model_is_explained_and_not_trained(own):
    with pytest.raises(ModelError, match="returns a VideoModel, which only explains; to train it, let the function"):
        create_model("own_package.nets:described").network(2)


def test_short_and_long_form_name_the_same_model():
    assert create_model("a.b:c.d,length=4") == create_model("factory:callable=a.b.c.d,length=4")
    assert create_model("r2plus1d_light").name == "r2plus1d_light"
    with pytest.raises(PluginError, match="unknown model 'r3d_81'; did you mean r3d_18"):
        create_model("r3d_81:weights=DEFAULT")
    with pytest.raises(PluginError, match="factory has no option 'lenght'; did you mean length"):
        create_model("a.b:c,lenght=4")


def test_a_network_of_ones_own_asks_for_optical_flow(own):
    entry = create_model("own_package.nets:plain,pixels=false,flow=5")
    assert entry.input == ClipInput(pixels=False, flow=5)
    assert entry.input.streams == {"flow": 10}
    with pytest.raises(ModelError, match="a clip needs pixels or flow"):
        create_model("own_package.nets:plain,pixels=false")
