"""The registry: names by place, plug-ins, refusals."""

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest

from trivet.catalogue import find, names, registry, skipped
from trivet.errors import ConfigError

METHOD = dedent('''
    """A method for the test."""

    from trivet._validation import Config as Base
    from trivet.catalogue import method


    class Config(Base):
        n: int = 4


    @method(paper="2309.07124", version=3, gives=("System",), needs=("extend",))
    def program(config, context):
        yield
''')


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that installs a plug-in package for this test."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: list(points))
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []

    def install(name: str, files: dict[str, str], entry: str | None = None) -> None:
        package = entry or f"{name}_trivet_plugin"
        folder = tmp_path / package
        (folder / "decode").mkdir(parents=True)
        for path in (folder, folder / "decode"):
            (path / "__init__.py").write_text("")
        for path, text in files.items():
            (folder / path).write_text(text)
        points.append(EntryPoint(name, package, registry.ENTRY_POINT_GROUP))
        made.append(package)
        importlib.invalidate_caches()
        registry.forget()

    yield install
    registry.forget()
    for module in [name for name in sys.modules if name.split(".")[0] in made]:
        del sys.modules[module]


def test_a_plugin_method_is_found_by_room_package_and_file(plugin):
    plugin("acme", {"decode/foo.py": METHOD, "decode/_hidden.py": METHOD, "decode/helper.py": "x = 1\n"})
    assert [name for name in names("decode") if "acme" in name] == ["decode/acme/foo"]
    assert "acme_trivet_plugin.decode.foo" not in sys.modules, "listing imports no method"
    method = find("decode/acme/foo")
    assert (method.name, method.room, method.version) == ("decode/acme/foo", "decode", 3)
    assert method.paper == "2309.07124"
    assert method.config(n=2).n == 2
    assert method.needs == ("extend",)


def test_an_unknown_name_is_answered_with_the_nearest(plugin):
    plugin("acme", {"decode/foo.py": METHOD})
    with pytest.raises(ConfigError, match=r"unknown method 'decode/acme/fo'") as raised:
        find("decode/acme/fo")
    assert "did you mean 'decode/acme/foo'" in str(raised.value)


def test_two_packages_under_one_name_are_refused(plugin):
    plugin("acme", {"decode/foo.py": METHOD})
    plugin("acme", {"decode/foo.py": METHOD}, entry="other_trivet_plugin")
    with pytest.raises(ConfigError, match="two installed packages register methods as 'acme'"):
        names()


def test_a_file_and_a_folder_of_the_same_name_are_refused(plugin, tmp_path):
    plugin("acme", {"decode/foo.py": METHOD})
    (tmp_path / "acme_trivet_plugin/decode/foo").mkdir()
    (tmp_path / "acme_trivet_plugin/decode/foo/__init__.py").write_text(METHOD)
    registry.forget()
    with pytest.raises(ConfigError, match="two files claim the method 'decode/acme/foo'"):
        names()


def test_two_methods_in_one_file_are_refused(plugin):
    second = METHOD + "\n\n@method()\ndef again(config, context):\n    yield\n"
    plugin("acme", {"decode/foo.py": second})
    with pytest.raises(ConfigError, match="registered twice"):
        find("decode/acme/foo")


def test_an_absent_optional_package_names_the_extra_that_brings_it(plugin):
    plugin("acme", {"decode/foo.py": "import ray_that_is_absent\n" + METHOD})
    with pytest.raises(ConfigError, match="needs the package 'ray_that_is_absent'") as raised:
        find("decode/acme/foo")
    assert raised.value.hint == "pip install ray_that_is_absent"
    assert registry._install_hint("trl.trainer") == "pip install 'trivet[train]'"
    assert registry._install_hint("PIL") == "pip install 'trivet[vision]'"


def test_another_import_error_is_loud(plugin):
    plugin("acme", {"decode/foo.py": "from trivet.catalogue import no_such_name\n" + METHOD})
    with pytest.raises(ImportError, match="no_such_name"):
        find("decode/acme/foo")


def test_a_plugin_package_that_lacks_an_optional_package_is_skipped_with_a_hint(plugin):
    plugin("acme", {"__init__.py": "import absent_dependency\n", "decode/foo.py": METHOD})
    plugin("fine", {"decode/foo.py": METHOD})
    assert "decode/fine/foo" in names("decode")
    assert not any("acme" in name for name in names())
    assert skipped()["acme"] == "absent_dependency is not installed; pip install absent_dependency"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("class Config(Base)", "class Settings(Base)"), "defines `class Config"),
        (('gives=("System",)', 'gives=("Sistem",)'), "unknown port 'Sistem'"),
        (("version=3", "version=0"), "version is 1 or more"),
    ],
)
def test_a_wrong_declaration_is_refused(plugin, change, message):
    plugin("acme", {"decode/foo.py": METHOD.replace(*change)})
    with pytest.raises(ConfigError, match=message):
        find("decode/acme/foo")


def test_names_are_by_place_and_file():
    root = Path(registry.__file__).parent.parent
    for name in names():
        assert (root / f"{name}.py").is_file() or (root / name / "__init__.py").is_file()
