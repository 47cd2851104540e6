from posecore.viz.curves import HEIGHT, LEFT, WIDTH, Chart, Curve


def test_a_line_spans_the_picture_and_keeps_its_ends():
    steps = list(range(10_001))
    chart = Chart(
        Curve(
            title="t",
            x_label="step",
            y_label="loss",
            series={"loss": (steps, [9 - s / 2000 for s in steps])},
            from_zero=False,
        )
    )
    ((name, _, points, last),) = chart.lines
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert name == "loss"
    assert len(places) <= 402
    assert places[0] == (LEFT, 12)
    assert places[-1] == last == (WIDTH - 12, HEIGHT - 36)
    assert (chart.x_ends, chart.y_ends) == (("0", "1e+04"), ("4", "9"))


def test_shares_are_drawn_to_one_and_what_has_no_points_is_left_out():
    series = {"a": ([0.0, 0.5], [0.25, 0.5]), "b": ([], [])}
    chart = Chart(Curve(title="t", x_label="x", y_label="y", series=series, diagonal=True))
    assert [line[0] for line in chart.lines] == ["a"]
    assert chart.y_ends == ("0", "1")
    assert chart.diagonal
    assert Chart(Curve(title="t", x_label="x", y_label="y", series={})).lines == []
    flat = Chart(Curve(title="t", x_label="x", y_label="y", series={"a": ([3.0], [2.0])}, from_zero=False))
    assert flat.lines[0][3] == (LEFT, HEIGHT - 36)
