"""Headers of MR series and what they are: both packages must answer alike.

Values as scanners of three vendors write them; times in ms. `agent` is Contrast/Bolus Agent, None
where the element is missing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One series."""

    name: str
    expected: str | None
    description: str = ""
    agent: str | None = None
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M")
    scanning: tuple[str, ...] = ("SE",)
    te: float | None = None
    tr: float | None = None
    ti: float | None = None
    b: float | None = None
    is_sure: bool = True  # a confidence of at least 0.6 is expected


SE, GR, IR, EP = ("SE",), ("GR",), ("IR",), ("EP",)
GR_IR, SE_IR, EP_SE = ("GR", "IR"), ("SE", "IR"), ("EP", "SE")

ROWS = (
    Row(name="T1 spin echo", expected="T1", te=11, tr=620),
    Row(name="T1 spin echo with contrast", expected="T1c", te=11, tr=620, agent="Gadovist"),
    Row(name="T1 spin echo, pseudonymised", expected="T1c", te=11, tr=620, agent="CONTRAST AGENT"),
    Row(name="T1 spin echo, none given", expected="T1", te=11, tr=620, agent="NONE"),
    Row(name="T1 spin echo, agent left empty", expected="T1", te=11, tr=620, agent=""),
    Row(name="MPRAGE", expected="T1", te=2.98, tr=2300, ti=900, scanning=GR_IR),
    Row(
        name="MPRAGE with contrast",
        expected="T1c",
        te=3,
        tr=1900,
        ti=900,
        scanning=GR_IR,
        agent="Gd",
    ),
    Row(name="BRAVO", expected="T1", te=3.2, tr=8.2, ti=450, scanning=GR),
    Row(name="VIBE", expected="T1", te=1.7, tr=4.6, scanning=GR),
    Row(name="T1 FLAIR", expected="T1", te=24, tr=2100, ti=860, scanning=SE_IR),
    Row(name="T2 TSE", expected="T2", te=102, tr=4800),
    Row(name="T2 SPACE", expected="T2", te=408, tr=3200),
    Row(name="T2 STIR", expected="T2", te=80, tr=4000, ti=160, scanning=SE_IR),
    Row(name="FLAIR 3 T", expected="FLAIR", te=94, tr=9000, ti=2500, scanning=IR),
    Row(name="FLAIR 1.5 T", expected="FLAIR", te=120, tr=8000, ti=2200, scanning=SE_IR),
    Row(name="3D FLAIR", expected="FLAIR", te=388, tr=5000, ti=1800, scanning=SE_IR),
    Row(name="FLAIR of unknown TI", expected="FLAIR", te=120, tr=9000, scanning=IR, is_sure=False),
    Row(name="DWI", expected="DWI", te=75, tr=6000, b=1000, scanning=EP_SE),
    Row(
        name="trace",
        expected="DWI",
        te=75,
        tr=6000,
        scanning=EP_SE,
        image_type=("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"),
    ),
    Row(
        name="ADC",
        expected="ADC",
        te=75,
        tr=6000,
        scanning=EP_SE,
        image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"),
    ),
    Row(name="BOLD", expected=None, te=30, tr=5000, scanning=("EP", "GR")),
    Row(name="susceptibility", expected=None, te=20, tr=28, scanning=GR),
    Row(name="proton density", expected=None, te=15, tr=3000),
    Row(name="nothing at all", expected=None, scanning=()),
    Row(name="only words", expected="FLAIR", description="AX T2 FLAIR", scanning=()),
    Row(
        name="only words, T1 and agent",
        expected="T1c",
        description="t1 axial",
        agent="Dotarem",
        scanning=(),
    ),
    Row(name="words agree", expected="T2", description="ax t2 tse", te=100, tr=5000),
    Row(name="words say contrast", expected="T1c", description="T1 SE POST GAD", te=11, tr=620),
    Row(
        name="words forget contrast", expected="T1c", description="T1 SE", te=11, tr=620, agent="Gd"
    ),
    Row(
        name="words contradict",
        expected="FLAIR",
        description="t1",
        te=94,
        tr=9000,
        ti=2500,
        scanning=IR,
        is_sure=False,
    ),
    Row(name="dynamic", expected="DCE", description="DCE dynamic", te=1.7, tr=4.6, scanning=GR),
)
