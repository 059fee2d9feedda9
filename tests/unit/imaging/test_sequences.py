import pytest

from django_queue_app.sequence_type import SequenceHints, guess_sequence_type
from tests.support.sequence_table import ROWS, Row
from worker.core.channels import ChannelRole, contradictions, keep_order, role_of, sort_series
from worker.core.errors import SeriesInvalid
from worker.core.sequences import CONFIDENT, SequenceHeader, recognise

BRATS = ("T1c", "T1", "T2", "FLAIR")
T1 = SequenceHeader(echo_time_ms=11, repetition_time_ms=620)
T1_PLAIN = SequenceHeader(echo_time_ms=11, repetition_time_ms=620, contrast_agent="NONE")
T1C = SequenceHeader(echo_time_ms=11, repetition_time_ms=620, contrast_agent="CONTRAST AGENT")
T2 = SequenceHeader(echo_time_ms=102, repetition_time_ms=4800)
FLAIR = SequenceHeader(echo_time_ms=94, repetition_time_ms=9000, inversion_time_ms=2500)


def header_of(row: Row) -> SequenceHeader:
    return SequenceHeader(
        description=row.description,
        contrast_agent=row.agent,
        image_type=row.image_type,
        scanning_sequence=row.scanning,
        echo_time_ms=row.te,
        repetition_time_ms=row.tr,
        inversion_time_ms=row.ti,
        b_value=row.b,
    )


def phase(**values: float) -> SequenceHeader:
    return SequenceHeader(
        echo_time_ms=1.7, repetition_time_ms=4.6, scanning_sequence=("GR",), **values
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_worker_recognises_the_sequence(row: Row) -> None:
    guess = recognise(header_of(row))
    assert guess.sequence == row.expected, guess.in_words()
    if row.expected:
        assert (guess.confidence >= CONFIDENT) == row.is_sure
        assert guess.reasons


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_sites_list_gives_the_same_answer(row: Row) -> None:
    hints = SequenceHints(
        description=row.description,
        contrast_agent=row.agent or "",
        image_type=row.image_type,
        scanning_sequence=row.scanning,
        echo_time_ms=row.te,
        repetition_time_ms=row.tr,
        inversion_time_ms=row.ti,
        b_value=row.b,
    )
    sequence, confidence = guess_sequence_type(hints)
    assert sequence == row.expected
    assert 0 <= confidence <= 1


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("T1c", ChannelRole(sequence="T1c")),
        ("t1ce", ChannelRole(sequence="T1c")),
        ("T1-Gd", ChannelRole(sequence="T1c")),
        ("T1 post", ChannelRole(sequence="T1c")),
        ("t1n", ChannelRole(sequence="T1")),
        ("T1w", ChannelRole(sequence="T1")),
        ("t2w", ChannelRole(sequence="T2")),
        ("t2f", ChannelRole(sequence="FLAIR")),
        ("T2-FLAIR", ChannelRole(sequence="FLAIR")),
        ("ADC", ChannelRole(sequence="ADC")),
        ("pre", ChannelRole(phase=-1)),
        ("DCE phase 2", ChannelRole(phase=2)),
        ("post_1", ChannelRole(phase=1)),
        ("image", None),
        ("", None),
    ],
)
def test_a_channels_name_is_read(name: str, role: ChannelRole | None) -> None:
    assert role_of(name) == role


def test_a_right_order_is_not_remarked_upon() -> None:
    assert contradictions([T1C, T1, T2, FLAIR], BRATS) == ()
    assert contradictions([T1C, T1_PLAIN, T2, FLAIR], BRATS) == ()


def test_a_wrong_order_is_named_with_its_reasons() -> None:
    one, other = contradictions([T1C, T1, FLAIR, T2], BRATS)
    assert one == (
        "Series 3 looks like FLAIR (confidence 0.9: TI 2500 ms, TE 94 ms, TR 9000 ms) but the "
        "model takes T2 there: check the order."
    )
    assert other.startswith("Series 4 looks like T2")


def test_contrast_that_nobody_recorded_contradicts_nothing() -> None:
    assert contradictions([T1, T1, T2, FLAIR], BRATS) == ()
    (sentence,) = contradictions([T1_PLAIN, T1, T2, FLAIR], BRATS)
    assert sentence.startswith("Series 1 looks like T1 (confidence 0.8: TE 11 ms")
    swapped = contradictions([T1_PLAIN, T1C, T2, FLAIR], BRATS)
    assert len(swapped) == 2


def test_what_a_model_does_not_name_is_not_checked() -> None:
    assert contradictions([FLAIR], ("image",)) == ()


@pytest.mark.parametrize(
    "values",
    [
        {"acquired_s": (10.0, 70.0, 130.0)},
        {"temporal_position": (1, 2, 3)},
        {"trigger_time_ms": (0.0, 6e4, 1.2e5)},
        {"content_s": (10.0, 70.0, 130.0)},
    ],
)
def test_swapped_phases_are_pointed_out_and_sorted(values: dict[str, tuple[float, ...]]) -> None:
    channels = ("pre", "post 1", "post 2")
    ((name, times),) = values.items()
    first, second, third = (phase(**{name: time}) for time in times)
    assert contradictions([first, second, third], channels) == ()
    (sentence,) = contradictions([first, third, second], channels)
    assert "series 3 for post 1, series 2 for post 2" in sentence
    found = sort_series([third, first, second], channels)
    assert found.indices == (1, 2, 0)
    assert found.confidence >= CONFIDENT


def test_a_series_number_alone_orders_no_phases() -> None:
    phases = [phase(series_number=number) for number in (3, 1, 2)]
    assert contradictions(phases, ("pre", "post 1", "post 2")) == ()
    with pytest.raises(SeriesInvalid, match="only the series number tells") as refused:
        sort_series(phases, ("pre", "post 1", "post 2"))
    assert refused.value.code == "sequence_order_unclear"


def test_four_sequences_are_sorted() -> None:
    found = sort_series([FLAIR, T2, T1C, T1], BRATS)
    assert found.indices == (2, 3, 1, 0)
    assert [guess.sequence for guess in found.guesses] == list(BRATS)
    assert found.confidence == 0.75
    assert "contrast agent" in found.reasons[0]


def test_phases_and_other_sequences_are_sorted_together() -> None:
    series = [phase(acquired_s=90.0), T2, phase(acquired_s=10.0)]
    assert sort_series(series, ("T2", "DCE 1", "DCE 2")).indices == (1, 2, 0)


@pytest.mark.parametrize(
    ("series", "channels", "says"),
    [
        ([FLAIR, T2, T1, T1], BRATS, "no series can be recognised as T1c"),
        ([FLAIR, T2, T2, T1C], BRATS, "no series can be recognised as T1 "),
        ([T2, T2, FLAIR], ("T2", "FLAIR", "T1"), "2 series can be recognised as T2"),
        ([T2, T1], ("image 1", "image"), "names no sequence that is known"),
        ([phase(), phase()], ("pre", "post 1"), "no time in the headers"),
        (
            [SequenceHeader(), T1],
            ("FLAIR", "T1"),
            r"series 1 looks like nothing known \(confidence 0.0: TE or TR unknown\)",
        ),
    ],
)
def test_what_is_not_certain_is_not_sorted(
    series: list[SequenceHeader], channels: tuple[str, ...], says: str
) -> None:
    with pytest.raises(SeriesInvalid, match=says) as refused:
        sort_series(series, channels)
    assert refused.value.code == "sequence_order_unclear"
    assert "order as given" in refused.value.message


def test_a_single_series_needs_no_sorting() -> None:
    assert sort_series([SequenceHeader()], ("image",)).indices == (0,)
    assert keep_order([T2, T1]).indices == (0, 1)
