"""tools/second-opinion: what it makes of two emulators' answers, and the list that it holds them to. Starts neither of them."""

import importlib.machinery
import importlib.util
import pathlib
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIST = (ROOT / "docs/emulators.md").read_text()


def tool():
    loader = importlib.machinery.SourceFileLoader("second_opinion", str(ROOT / "tools/second-opinion"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


opinion = tool()


def row(question, ministack, moto):
    return f"| `{question}` | `{ministack}` | `{moto}` | documented | relied on |"


class Differences(unittest.TestCase):
    def found(self, ministack, moto, listed=""):
        return opinion.differences(opinion.compare(ministack, moto), opinion.noted(listed))

    def test_emulators_that_agree_need_no_row(self):
        self.assertEqual(self.found({"a: b": "ok"}, {"a: b": "ok"}), [])

    def test_a_disagreement_that_is_not_listed_is_new(self):
        (line,) = self.found({"a: b": "ok"}, {"a: b": "Refused"})
        self.assertTrue(line.startswith("new: | `a: b` | `ok` | `Refused` |"), line)

    def test_a_listed_disagreement_is_as_it_should_be(self):
        self.assertEqual(self.found({"a: b": "ok"}, {"a: b": "Refused"}, row("a: b", "ok", "Refused")), [])

    def test_a_listed_disagreement_that_is_gone_or_changed_is_noticed(self):
        (line,) = self.found({"a: b": "Refused"}, {"a: b": "Refused"}, row("a: b", "ok", "Refused"))
        self.assertTrue(line.startswith("gone: a: b"), line)
        (line,) = self.found({"a: b": "Other"}, {"a: b": "Refused"}, row("a: b", "ok", "Refused"))
        self.assertTrue(line.startswith("changed: a: b"), line)

    def test_two_that_agree_on_what_aws_does_not_are_held_to_it(self):
        listed = row("a: b", "ok", "ok")
        self.assertEqual(self.found({"a: b": "ok"}, {"a: b": "ok"}, listed), [])
        self.assertEqual(len(self.found({"a: b": "Refused"}, {"a: b": "Refused"}, listed)), 1)

    def test_a_question_that_one_did_not_get_to_is_a_disagreement(self):
        lines = self.found({"a: b": "ok"}, {"a: (ends early)": "Send: Broken"})
        self.assertIn("new: | `a: b` | `ok` | `not asked` |", lines[0])
        self.assertIn("new: | `a: (ends early)` | `not asked` | `Send: Broken` |", lines[1])

    def test_a_listed_question_that_is_not_asked_any_more_is_noticed(self):
        self.assertEqual(self.found({}, {}, row("a: b", "ok", "Refused")), ["not asked any more: a: b"])

    def test_only_the_wanted_questions_are_missed(self):
        listed = opinion.noted(row("sqs: b", "ok", "Refused"))
        self.assertEqual(opinion.differences({}, listed, "sns"), [])

    def test_a_question_is_listed_once(self):
        with self.assertRaises(ValueError):
            opinion.noted(row("a: b", "ok", "x") + "\n" + row("a: b", "ok", "y"))


class Answers(unittest.TestCase):
    def test_an_answer_fits_a_cell(self):
        self.assertEqual(opinion.spell({"b", "a"}), "a / b")
        self.assertEqual(opinion.spell([True, None, "x|y\nz"]), "yes / none / x¦y z")
        self.assertEqual(opinion.spell([]), "nothing")


class List(unittest.TestCase):
    def test_every_row_is_of_a_scenario_and_says_what_aws_documents_and_what_the_code_relies_on(self):
        rows = [line for line in LIST.splitlines() if line.startswith("| `")]
        self.assertEqual(len(rows), len(opinion.noted(LIST)), "a row that the tool does not read")
        for line in rows:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            self.assertIn(cells[0].strip("`").split(": ")[0], opinion.SCENARIOS)
            self.assertTrue(all(cells) and "…" not in line, line)

    def test_every_page_that_is_named_has_its_address(self):
        named = set(re.findall(r"\[([^\]]+)\](?!:)", LIST))
        self.assertEqual(named, set(re.findall(r"^\[([^\]]+)\]: https://docs\.aws\.amazon\.com/", LIST, re.M)))


if __name__ == "__main__":
    unittest.main()
