"""The policy, the verdict by rules, and the gate that sends an unsure verdict to a person."""

import asyncio
from pathlib import Path

import pytest

from orchestrator import Gate
from orchestrator.testing import fake_context
from workers.moderation import moderation
from workers.moderation.classify import classify
from workers.moderation.errors import InvalidPolicy
from workers.moderation.flow import ANSWER_WITHIN, confident
from workers.moderation.models import Classified, Redacted, Verdict
from workers.moderation.policy import SHIPPED, Policy, load_policy, policy
from workers.moderation.rules import classified, judge, rules

POLICY = """
name = "test"
languages = ["en"]
unanswered = "block"
[sure]
allow = 0.65
label = 0.65
block = 0.75
[[category]]
id = "spam"
description = "Offers."
action = "block"
score = 2.0
terms = { "buy now" = 1.0, "casino" = 1.0, "free" = 0.5, "offer" = 2.0 }
[[category]]
id = "rant"
description = "Anger."
action = "label"
terms = { "damn" = 1.0 }
[[category]]
id = "danger"
description = "A person should look."
action = "review"
patterns = { 'explo(?:sive|sion)s?' = 3.0 }
redactions = { SECRET = 1.0 }
"""


def _policy(tmp_path: Path, text: str = POLICY) -> Policy:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return load_policy(file)


def _document(text: str = "", *, language: str = "en", **more: object) -> Redacted:
    fields = {"id": "a", "text": text, "language": language, "characters": len(text)} | more
    return Redacted.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "category", "action", "confidence"),
    [
        ("A quiet text.", "none", "allow", 1.0),
        ("BUY\nNOW in our Casino, a free offer", "spam", "block", 0.82),
        ("buy now: casino", "spam", "block", 0.67),
        ("buy now", "none", "allow", 0.75),
        ("buy now, free", "none", "allow", 0.62),
        ("casinos and freedom", "none", "allow", 1.0),
        ("damn", "rant", "label", 0.67),
        ("damn, buy now, casino", "spam", "block", 0.67),
        ("an explosion", "danger", "review", 0.86),
        ("\uff42\uff55\uff59 \uff4e\uff4f\uff57, \uff4f\uff46\uff46\uff45\uff52", "spam", "block", 0.75),
    ],
)
def test_evidence_is_weighed_against_the_score_of_its_category(
    tmp_path: Path, text: str, category: str, action: str, confidence: float
) -> None:
    # Given a policy and a text
    # When the rules judge it
    verdict = judge(_document(text), _policy(tmp_path))

    # Then the most severe category that was reached is named, surer the more there is
    assert (verdict.category, verdict.action, verdict.confidence) == (category, action, confidence)
    assert verdict.decided_by == "rules"


def test_a_verdict_names_its_evidence(tmp_path: Path) -> None:
    # Given a document with a term, and one where a secret was found
    # When the rules judge them
    spam = judge(_document("Buy now at the casino!"), _policy(tmp_path))
    secret = judge(_document("[SECRET]", redactions={"SECRET": 2}), _policy(tmp_path))

    # Then the reasons quote it
    assert spam.reasons == ("buy now (1)", "casino (1)")
    assert secret.reasons == ("[SECRET] 2 times (1)",)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (_document("Ein ruhiger Text.", language="de"), "the rules do not read 'de'"),
        (_document("Quiet", truncated=True, characters=1_000_000), "only the beginning of 1,000,000 characters"),
    ],
)
def test_what_the_rules_cannot_read_they_are_not_sure_of(tmp_path: Path, document: Redacted, reason: str) -> None:
    # Given a text in another language, or one that was cut
    # When the rules find nothing in it
    verdict = judge(document, _policy(tmp_path))

    # Then they say that this means little
    assert verdict.action == "allow"
    assert verdict.confidence == 0.5
    assert verdict.reasons[0].startswith(reason)


def test_a_text_in_no_particular_language_is_read_by_the_rules(tmp_path: Path) -> None:
    # Given a text too short to tell its language
    # When the rules judge it
    # Then they are as sure as of any
    assert judge(_document("ok", language="und"), _policy(tmp_path)).confidence == 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (POLICY.replace('id = "spam"', "id ="), "is not valid TOML: Invalid value (at line 10, column 5)"),
        (POLICY.replace('"block"\nscore', '"delete"\nscore'), "category.0.action: Input should be 'label', 'review'"),
        (POLICY.replace("explo(", "explo(("), "category.2.patterns: 'explo((?:sive|sion)s?' is not a regular"),
        (POLICY.replace('"rant"', '"spam"'), "policy: category 'spam' is there twice"),
        (POLICY.replace('"rant"', '"none"'), "policy: the id 'none' means that no category was reached"),
        (POLICY.replace("score = 2.0", "scores = 2.0"), "category.0.scores: Extra inputs are not permitted"),
        (POLICY.replace("block = 0.75", "block = 75"), "sure.block: Input should be less than or equal to 1"),
        (POLICY.replace('"casino" = 1.0', '"casino" = -1'), "category.0.terms.casino: Input should be greater than 0"),
        ('name = "x"\n', "languages: Field required"),
    ],
)
def test_a_mistake_in_the_policy_is_named_with_its_place(tmp_path: Path, wrong: str, message: str) -> None:
    # Given a policy file with a mistake
    # When it is loaded
    with pytest.raises(InvalidPolicy) as raised:
        _policy(tmp_path, wrong)

    # Then the message is one line that names file and place
    assert f"policy {tmp_path / 'policy.toml'}: " in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    # Given a path where nothing is
    # When a policy is loaded from it
    # Then the error says so, and survives a round trip through its arguments
    with pytest.raises(InvalidPolicy, match="cannot be read: No such file") as raised:
        load_policy(tmp_path / "none.toml")
    assert str(InvalidPolicy(*raised.value.args)) == str(raised.value)


def test_the_shipped_policy_fits_and_explains_every_category() -> None:
    # Given the policy in the package
    shipped = load_policy(SHIPPED)

    # When we look at its categories
    # Then each has a description for the model and some evidence for the rules
    for category in shipped.category:
        assert category.description.endswith(".")
        assert category.terms or category.patterns or category.redactions


def _verdict(action: str, confidence: float, **more: object) -> Classified:
    verdict = {"category": "spam", "action": action, "confidence": confidence, "decided_by": "rules"} | more
    return classified(_document("x", title="T"), Verdict.model_validate(verdict))


def test_the_gate_lets_a_sure_verdict_pass() -> None:
    # Given a verdict above the policy's number for its action
    # When the gate checks it
    # Then it passes
    assert confident(_verdict("block", policy().sure.block)).action == "pass"


def test_the_gate_asks_a_person_about_an_unsure_verdict_and_says_what_answers_mean() -> None:
    # Given a verdict below the number
    decision = confident(_verdict("block", policy().sure.block - 0.01, reasons=("buy now (1)",)))

    # When a person reads the question
    # Then it names document, verdict, evidence and what approving means
    assert decision.action == "human"
    assert decision.reason == (
        "T: spam → block, confidence 0.74 (buy now (1)); approve to let this stand, reject to drop the document"
    )


def test_a_category_to_review_goes_to_a_person_however_sure() -> None:
    # Given a verdict that is certain of something a person should see
    # When the gate checks it
    # Then a person is asked
    assert confident(_verdict("review", 1.0)).action == "human"


def test_when_nobody_answers_the_rules_decide_and_what_they_doubt_stays_back() -> None:
    # Given a clean document that a model was unsure of, and one the rules doubt as well
    clean, doubtful = _document("A quiet text."), _document("[SECRET]", redactions={"SECRET": 1})

    # When the rules stand in
    sure, unsure = rules(clean).verdict, rules(doubtful).verdict

    # Then the first is allowed, the second is not published, and both say who decided
    assert (sure.action, sure.degraded, sure.decided_by) == ("allow", True, "rules")
    assert (unsure.action, unsure.degraded, unsure.category) == ("block", True, "leaked-secret")
    assert "nobody else decided" in unsure.reasons[-1]


def test_without_a_model_the_rules_classify(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no configured model
    monkeypatch.setattr("workers.moderation.classify.decider", lambda: None)
    document = _document("Free followers, and an online casino!")

    # When the document is classified
    verdict = asyncio.run(classify(fake_context(), document)).verdict

    # Then it is the rules' verdict
    assert verdict == judge(document, policy())
    assert (verdict.category, verdict.decided_by) == ("spam", "rules")


def test_the_flow_is_the_five_stages_with_a_person_behind_the_third() -> None:
    # Given the flow
    # When its plan is read
    plan = moderation.plan()

    # Then the stages are in order, and only classify has a gate, with the rules behind it
    assert [step.name for step in plan] == ["ingest", "redact", "classify", "summarise", "publish"]
    assert [step.name for step in plan if step.gated] == ["classify"]
    gate = moderation.gate_of("classify")
    assert isinstance(gate, Gate)
    assert (gate.default, gate.timeout, gate.fallback) == ("fallback", ANSWER_WITHIN, rules)
