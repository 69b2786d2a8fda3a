import os

import pytest

from stillhouse.io.inside import inside, plain


@pytest.mark.parametrize(
    ("name", "is_plain"),
    [
        ("unet", True),
        ("text_encoder_2", True),
        ("model-00001-of-00002.safetensors", True),
        ("..", False),
        (".", False),
        ("", False),
        ("../unet", False),
        ("a/b", False),
        ("a\\b", False),
        ("C:x", False),
        ("a\0b", False),
        ("x" * 256, False),
        (None, False),
        (3, False),
    ],
)
def test_a_plain_name_is_an_entry_of_its_folder(name, is_plain):
    assert plain(name) == is_plain


@pytest.fixture
def root(tmp_path):
    """A folder with a file, a folder in it, and links that stay and that leave."""
    root = tmp_path / "data"
    (root / "below").mkdir(parents=True)
    (root / "one.png").touch()
    (root / "below" / "two.png").touch()
    (tmp_path / "secret.png").touch()
    (root / "stays.png").symlink_to("below/two.png")
    (root / "leaves.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path, target_is_directory=True)
    return root


@pytest.mark.parametrize(
    "name", ["one.png", "below/two.png", "./below/../one.png", "below\\two.png", "stays.png", "gone"]
)
def test_names_that_stay(root, name):
    path = inside(root, root, name)
    assert path is not None and path.is_relative_to(root) and (path.exists() or name == "gone")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../secret.png",
        "below/../../secret.png",
        "..\\secret.png",
        "/etc/passwd",
        "\\\\server\\share",
        "C:\\secret.png",
        "leaves.png",
        "out/secret.png",
        "a\0b",
        "x" * 5000,
    ],
)
def test_names_that_leave(root, name):
    assert inside(root, root, name) is None


def test_a_name_is_relative_to_its_file_and_may_go_up_within_the_root(root):
    assert inside(root, root / "below", "two.png") == root / "below" / "two.png"
    assert inside(root, root / "below", "../one.png") == root / "one.png"
    assert inside(root, root / "below", "../../secret.png") is None


def test_files_of_the_hubs_cache_are_links_to_their_blobs(tmp_path):
    place = tmp_path / "datasets--me--mine"
    (place / "blobs").mkdir(parents=True)
    (place / "blobs" / "0a1b").touch()
    root = place / "snapshots" / "cafe"
    root.mkdir(parents=True)
    os.symlink("../../blobs/0a1b", root / "one.png")
    os.symlink(tmp_path / "secret", root / "two.png")
    assert inside(root, root, "one.png") == root / "one.png" and inside(root, root, "two.png") is None
