"""What is said of the built-in scenes of shapes, in English and in Chinese."""

from collections.abc import Callable

from unblot.data.readers.shape_scenes import OPPOSITES, Scene, Thing

SIDES = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
SHORT_SIDES = {"left": "left of", "right": "right of", "above": "over", "below": "under"}
CHINESE = {
    **{"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "五角星", "ring": "圆环"},
    **{"red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色", "purple": "紫色"},
    **{"white": "白色", "black": "黑色", "small": "小", "medium": "中号", "large": "大"},
    **{"left": "左边", "right": "右边", "above": "上面", "below": "下面"},
    **{"plain": "纯色", "striped": "条纹", "checked": "方格", "dotted": "圆点"},
}


def english(scene: Scene) -> tuple[str, ...]:
    """Two or three English captions of a `Scene`; the first names colour, shape and size of everything."""
    first, last = scene.things[0], scene.things[-1]
    ground = f"on a {scene.ground} ground"
    if len(scene.things) == 1:
        said = [f"{_a(_full(first))} {ground}", _a(_short(first)), f"{first.size} {first.shape} in {first.colour}"]
        return _some(_a(_full(first)), said, scene.phrasing)
    if scene.alike:
        order = "side by side" if scene.relation in ("left", "right") else "one above the other"
        full = f"two {_full(first)}s {order}"
        said = [f"two {_short(first)}s", f"two {first.shape}s {order}", f"two {_full(first)}s {ground}"]
        return _some(full, said, scene.phrasing)
    back = OPPOSITES[scene.relation]
    said = [
        f"{_a(_full(last))} {SIDES[back]} {_a(_full(first))}",
        f"{_a(_short(first))} {SHORT_SIDES[scene.relation]} {_a(_short(last))}",
        f"{_a(_full(first))} {SIDES[scene.relation]} {_a(_full(last))} {ground}",
    ]
    return _some(f"{_a(_full(first))} {SIDES[scene.relation]} {_a(_full(last))}", said, scene.phrasing)


def chinese(scene: Scene) -> tuple[str, ...]:
    """Two or three Chinese captions of a `Scene`; the first names colour, shape and size of everything."""
    first, last = scene.things[0], scene.things[-1]
    one, other = (f"{CHINESE[t.colour]}的{CHINESE[t.size]}{CHINESE[t.shape]}" for t in (first, last))
    bare, other_bare = (f"{CHINESE[t.colour]}{CHINESE[t.shape]}" for t in (first, last))
    ground = f"{CHINESE[scene.ground]}背景上的"
    if len(scene.things) == 1:
        return _some(f"一个{one}", [f"{ground}一个{one}", f"一个{bare}", f"{ground}{bare}"], scene.phrasing)
    if scene.alike:
        order = "左右并排" if scene.relation in ("left", "right") else "上下排列"
        return _some(
            f"两个{one}，{order}", [f"两个{bare}", f"{ground}两个{one}", f"两个{bare}，{order}"], scene.phrasing
        )
    side, back = CHINESE[scene.relation], CHINESE[OPPOSITES[scene.relation]]
    said = [f"一个{other}在一个{one}的{back}", f"{bare}在{other_bare}的{side}", f"{other_bare}的{side}有一个{bare}"]
    return _some(f"一个{one}在一个{other}的{side}", said, scene.phrasing)


SENTENCES: dict[str, Callable[[Scene], tuple[str, ...]]] = {"en": english, "zh": chinese}


def _some(full: str, said: list[str], phrasing: int) -> tuple[str, ...]:
    """The full caption and one or two others."""
    start = phrasing % len(said)
    return full, *(said[(start + i) % len(said)] for i in range(1 + phrasing // len(said) % 2))


def _full(thing: Thing) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}"


def _short(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
