"""A set of names in little memory."""

from imagecap.data.name_set import NameSet


def test_it_holds_the_names_that_were_added() -> None:
    names = NameSet()
    assert "0.jpg" not in names
    assert not any(names.add(f"{number}.jpg") for number in range(0, 40_000, 2))
    assert names.add("10.jpg")
    assert len(names) == 20_000
    assert all((f"{number}.jpg" in names) == (number % 2 == 0) for number in range(0, 40_000, 7))
    assert not names.add("\udce9.jpg")
    assert "\udce9.jpg" in names
