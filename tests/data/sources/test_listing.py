import os

import pytest
from PIL import Image

from athanor.base.errors import UserError
from athanor.data.sources.listing import Listing, expanded


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.png", "deep/er/c.jpg", ".hidden/d.png", ".e.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path / "photos"


def test_pictures_are_listed_with_size_and_time_sorted(photos):
    listing = Listing(photos, follow_links=False)
    files = listing.pictures(photos)
    assert [path for path, *_ in files] == ["a.png", "b.png", os.path.join("deep", "er", "c.jpg")]
    assert files[0][1:] == ((photos / "a.png").stat().st_size, (photos / "a.png").stat().st_mtime_ns)
    assert listing.num_others == 1


def test_a_folder_becomes_the_pictures_below_it_and_files_stay(photos):
    (photos / "link").symlink_to(photos / "deep" / "er")
    (photos / "deep" / "er").rename(photos.parent / "elsewhere")
    (photos / "link").unlink()
    (photos / "link").symlink_to(photos.parent / "elsewhere")
    listed = ["x.png", "photos/a.png", "photos/b.png", "photos/link/c.jpg", "none.png"]
    assert list(expanded(["x.png", "photos", "none.png"])) == listed


def test_a_folder_without_pictures_is_an_error(photos):
    os.mkdir("empty")
    with pytest.raises(UserError, match="no images below the folder empty"):
        list(expanded(["empty"]))
