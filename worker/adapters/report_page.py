"""Writes report.html: the report as one A4 page that a person would file, in English and Korean.

One file, no script, nothing fetched: the picture stands in it, and a content security policy
forbids the rest. Every text that isn't ours is escaped. The worker knows no patient, so the page
leaves a line for the name.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from worker.language import in_korean

Report = Mapping[str, Any]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_LEAST_SHOWN_S = 0.05

_STYLE = """
@page { size: A4; margin: 9mm 12mm; }
* { box-sizing: border-box; }
html { background: #e9ebee; }
body { width: 186mm; margin: 8mm auto; padding: 9mm; background: #fff; color: #16191d;
  font: 8.5pt/1.28 "Noto Sans", "Noto Sans KR", "Noto Sans CJK KR", "Malgun Gothic",
    "Apple SD Gothic Neo", "Helvetica Neue", Arial, sans-serif; }
@media print {
  html { background: #fff; }
  body { width: auto; margin: 0; padding: 0; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
header { display: flex; justify-content: space-between; align-items: flex-start;
  border-bottom: 1.6pt solid #16191d; padding-bottom: 2mm; }
h1 { font-size: 15pt; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 9.2pt; margin: 3.2mm 0 1mm; padding-bottom: .6mm;
  border-bottom: .5pt solid #c4c9d0; }
.ko { color: #5a626d; font-weight: 400; font-size: .88em; margin-left: .5em;
  word-break: keep-all; }
li .ko, .headline span .ko { display: block; margin: 0; }
.badge { border: 1pt solid #a4161a; color: #a4161a; padding: 1mm 2.4mm; font-weight: 700;
  text-align: center; white-space: nowrap; }
.badge .ko { display: block; margin: 0; color: inherit; }
.patient { display: grid; grid-template-columns: 2fr 1.4fr 1.2fr; gap: 5mm; margin-top: 3mm; }
.patient div { border-bottom: .6pt solid #8a929d; min-height: 8mm; font-size: 7.6pt;
  color: #5a626d; }
.headline { display: flex; gap: 6mm; align-items: baseline; margin: 3.5mm 0 2.5mm; }
.headline strong, .headline .volume { font-size: 13pt; white-space: nowrap; }
.headline .volume { font-variant-numeric: tabular-nums; }
img { display: block; width: 100%; max-height: 75mm; object-fit: contain; background: #0c0e12; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 600; color: #5a626d; font-size: 7.8pt; }
th, td { padding: .7mm 2mm .7mm 0; vertical-align: top; border-bottom: .4pt solid #e3e6ea; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 3mm; height: 3mm; margin-right: 1.6mm;
  vertical-align: -.3mm; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 0 7mm; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .3mm 3mm; margin: 0; font-size: 8.2pt; }
dt { color: #5a626d; }
dd { margin: 0; overflow-wrap: anywhere; }
code { font: 7.2pt/1.3 "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 4.5mm; }
.warnings { border-left: 2pt solid #c77700; padding-left: 2.5mm; }
footer { margin-top: 4mm; padding-top: 1.5mm; border-top: .6pt solid #8a929d; font-size: 7.6pt;
  color: #5a626d; display: flex; justify-content: space-between; gap: 6mm; }
section, tr, figure { break-inside: avoid; }
figure { margin: 0; }
"""


def write_report_page(path: Path, report: Report, *, picture: bytes) -> None:
    """Write the page.

    Parameters
    ----------
    report : mapping
        What report.json holds (`worker.adapters.report.make_report`).
    picture : bytes
        A PNG that stands in the page.
    """
    encoded = base64.b64encode(picture).decode("ascii")
    path.write_text(page_of(report, encoded), encoding="utf-8")


def page_of(report: Report, picture: str) -> str:
    """Give the page's HTML; `picture` is a PNG in base64."""
    model = report["result"]["model"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Segmentation report {_text(report['request_id'])}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        + _header(report)
        + _headline(report)
        + f'<figure><img alt="Three planes through the largest finding, and slices through it" '
        f'src="data:image/png;base64,{picture}"></figure>\n'
        + _segments(report)
        + _inputs(report)
        + _warnings(report)
        + f'<div class="columns">{_model(model, report)}{_making(report)}</div>\n'
        + _footer(report)
        + "</body>\n</html>\n"
    )


def _header(report: Report) -> str:
    lines = "".join(
        f"<div>{_both(english, korean)}</div>"
        for english, korean in (
            ("Patient: see PACS", "환자: PACS 참조"),
            ("Patient ID", "환자 번호"),
            ("Reported by, date", "판독자, 날짜"),
        )
    )
    return (
        f"<header><div><h1>{_both('MRI segmentation report', 'MRI 분할 보고서')}</h1>"
        f"<code>{_text(report['request_id'])}</code></div>"
        f'<div class="badge">{_both("Research use only", "연구용으로만 사용")}</div></header>\n'
        f'<div class="patient">{lines}</div>\n'
    )


def _headline(report: Report) -> str:
    result = report["result"]
    has_tumors = any(item["counts_as_tumor"] for item in report["segments"])
    if result["tumor_detected"]:
        volume = f"{result['tumor_volume_ml']:,.2f} mL"
        return (
            f'<div class="headline"><strong>{_both("Lesion found", "병변 발견")}</strong>'
            f'<span class="volume">{volume}</span><span>{_extent(result)}</span></div>\n'
        )
    if has_tumors:
        sentence = _both("No lesion found", "병변이 발견되지 않음")
    elif any(item["voxels"] for item in result["segments"]):
        sentence = _both("Anatomy segmented", "해부 구조 분할")
    else:
        sentence = _both("Nothing found", "발견된 것 없음")
    return f'<div class="headline"><strong>{sentence}</strong></div>\n'


def _extent(result: Mapping[str, Any]) -> str:
    voxels, total = result["tumor_volume_voxels"], result["total_slices"]
    first, last = result["start_slice_index"] + 1, result["end_slice_index"] + 1
    is_one = first == last
    slices = f"slice {first}" if is_one else f"slices {first} to {last}"
    amount = "1 voxel" if voxels == 1 else f"{voxels:,} voxels"
    korean = f"{first}번" if is_one else f"{first}~{last}번"
    return _both(
        f"{amount} · {slices} of {total}",
        f"{voxels:,}복셀 · 슬라이스 {total}장 중 {korean}",
    )


def _segments(report: Report) -> str:
    rows = []
    for spec, found in zip(report["segments"], report["result"]["segments"], strict=True):
        red, green, blue = (int(part) for part in spec["color_rgb"])
        rows.append(
            (
                f'<span class="swatch" style="background:rgb({red},{green},{blue})"></span>'
                f"{found['number']}&ensp;{_both(spec['label'], spec.get('label_ko') or '')}",
                f"{_text(spec['type']['meaning'])} <code>{_text(spec['type']['scheme'])} "
                f"{_text(spec['type']['value'])}</code>",
                f"{found['voxels']:,}",
                f"{found['volume_ml']:,.2f}",
            )
        )
    heads = (
        _both("Segment", "분할 영역"),
        _both("Code", "코드"),
        _both("Voxels", "복셀"),
        _both("Volume, mL", "부피"),
    )
    return f"<section>{_title('Segments', '분할 결과')}{_table(heads, rows, numbers=2)}</section>\n"


def _inputs(report: Report) -> str:
    rows = []
    for item in report["inputs"]:
        sequence = item["sequence"]
        guess = f"{_text(sequence['guess'] or '–')} ({sequence['confidence']:.2f})"
        main = f" · {_both('main', '주 시리즈')}" if item["is_main"] else ""
        rows.append(
            (
                f"{_text(item['channel'])}{main}",
                guess,
                _numbers(item["shape"], "{:d}"),
                _numbers(item["spacing_mm"], "{:.2f}"),
                _alignment(item),
            )
        )
    heads = (
        _both("Channel", "채널"),
        _both("Looks like", "추정 시퀀스"),
        _both("Matrix", "행렬"),
        _both("Spacing, mm", "간격"),
        _both("Alignment", "정합"),
    )
    is_sorted = report["order"]["asked"] == "auto"
    order = "sorted by the worker · 워커가 정렬" if is_sorted else "order as given · 지정한 순서"
    title = _title("Inputs", "입력 영상", note=order)
    return f"<section>{title}{_table(heads, rows)}</section>\n"


def _alignment(item: Mapping[str, Any]) -> str:
    found = item["registration"]
    if found is None:
        if item["is_resampled"]:
            return _both("resampled", "재표본화")
        return _both("as acquired", "원래 격자")
    return (
        f"{_both('registered', '정합함')}: {found['rotation_deg']:.1f}°, "
        f"{found['shift_mm']:.1f} mm, fit {found['fit_before']:.2f} → {found['fit_after']:.2f}, "
        f"overlap {found['overlap']:.0%}"
    )


def _warnings(report: Report) -> str:
    # What stands elsewhere on the page isn't said twice.
    use = f"Intended use of this model: {report['intended_use']}"
    warnings = [item for item in report["result"]["warnings"] if item != use]
    if not warnings:
        return ""
    items = "".join(f"<li>{_both(item, _korean(item))}</li>" for item in warnings)
    title = _title("Warnings", "주의")
    return f'<section>{title}<div class="warnings"><ul>{items}</ul></div></section>\n'


def _korean(sentence: str) -> str:
    korean = in_korean(sentence)
    return "" if korean == sentence else korean


def _model(model: Mapping[str, str], report: Report) -> str:
    steps = [step["name"].replace("_", " ") for step in report["postprocessing"]["steps"]]
    pairs = (
        (_both("Name", "이름"), f"{_text(model['name'])} {_text(model['version'])}"),
        ("SHA-256", f"<code>{_text(model['sha256'])}</code>"),
        (
            _both("Intended use", "용도"),
            _text(report["intended_use"]) or _both("not stated", "명시되지 않음"),
        ),
        (
            _both("Postprocessing", "후처리"),
            _text(", ".join(steps)) or _both("the model's own", "모델 자체"),
        ),
    )
    return f"<section>{_title('Model', '모델')}{_list(pairs)}</section>"


def _making(report: Report) -> str:
    result = report["result"]
    timings = ", ".join(
        f"{name} {seconds:.1f}"
        for name, seconds in result["timings"].items()
        if seconds >= _LEAST_SHOWN_S
    )
    software = ", ".join(f"{name} {text}" for name, text in report["software"].items())
    pairs = (
        (_both("Total", "전체"), f"{result['elapsed_time_seconds']:.1f} s"),
        (_both("Stages, s", "단계"), _text(timings)),
        (_both("Device", "장치"), _text(report["device"])),
        (_both("Software", "소프트웨어"), _text(software)),
    )
    return f"<section>{_title('How it was made', '처리 정보')}{_list(pairs)}</section>"


def _footer(report: Report) -> str:
    notice = _both(
        "Research use only. Made by a program; not a diagnosis. Check it against the images.",
        "연구용으로만 사용하십시오. 프로그램이 만든 결과이며 진단이 아닙니다. 영상과 대조하십시오.",
    )
    uid = _text(report["result"]["sop_instance_uid"])
    return f"<footer><span>{notice}</span><code>SEG {uid}</code></footer>\n"


def _title(english: str, korean: str, *, note: str = "") -> str:
    return f"<h2>{_both(english, korean)}{f' <span class=ko>· {note}</span>' if note else ''}</h2>"


def _both(english: str, korean: str) -> str:
    said = _text(english)
    return f'{said}<span class="ko" lang="ko">{_text(korean)}</span>' if korean else said


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Make a table; its last `numbers` columns hold numbers. Cells are HTML already."""

    def line(cells: Sequence[str], kind: str) -> str:
        first = len(cells) - numbers
        made = (
            f'<{kind} class="n">{cell}</{kind}>' if at >= first else f"<{kind}>{cell}</{kind}>"
            for at, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(heads, 'th')}</thead><tbody>{body}</tbody></table>"


def _list(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in pairs)}</dl>"


def _numbers(values: Sequence[float], form: str) -> str:
    return " × ".join(form.format(value) for value in values)


def _text(value: object) -> str:
    return escape(str(value), quote=True)
