"""Write the HTML report of a run: counts, pictures, audits, fairness tables and plots.

Its pictures and tables lie beside the page, in `pictures` and `tables`. Beside it too: `real-or-made.html`, on which a person
judges pictures.
"""

from pathlib import Path

from cgddi.core.archive import record_for, write_record
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc


def main(argv: list[str]) -> int:
    """Run `cgddi report`."""
    parser = stage_parser("report", __doc__)
    parser.add_argument("--logs", required=True, help="folder of the jobs' logs, with what each one used")
    parser.add_argument("--summary", required=True, help="fairness/summary.json; the tables and plots lie beside it")
    parser.add_argument("--audits", nargs="+", required=True, help="audit/<split>/<kind>.json")
    parser.add_argument("--index", nargs="+", required=True, help="index/<split>.parquet")
    parser.add_argument("--samples", nargs="*", default=[], help="lora/<scope>/<concept>/samples.png")
    parser.add_argument(
        "--semantic", nargs="*", default=[], help="archives of samples, for those that failed the check"
    )
    parser.add_argument(
        "--classify", nargs="*", default=[], help="records of the classifiers, for their curves and settings"
    )
    parser.add_argument("--review", help="review/index.html, which the page links")
    parser.add_argument("--published", help="published/index.html, which the page links")
    parser.add_argument("--ladder", help="ladder/summary.json; its table and curves lie beside it")
    parser.add_argument("--healthy", help="audit/healthy.jsonl: healthy skin beside a baseline without a model")
    parser.add_argument("--masks", help="audit/masks.jsonl: what automatic masks are worth")
    parser.add_argument("--fedd", help="fedd/tables/summary.json of the study; its tables and figures lie beside it")
    parser.add_argument("--output", required=True, help="the page to write")
    args = parser.parse_args(argv)

    with without_gc():
        from cgddi.stages.report.page import write_page

    quiz = write_page(args.spec, args, args.output)
    inputs = [args.summary, *args.audits, *args.index, *args.samples, *args.semantic, *args.classify]
    inputs += filter(None, (args.review, args.published, args.ladder, args.healthy, args.masks, args.fedd))
    write_record(Path(args.output).with_name("record.json"), record_for(args.spec, inputs), [args.output, quiz])
    return 0
