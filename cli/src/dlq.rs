//! `firstcome dlq`: dead letters, looked at, sent again, dropped. What may be sent again is the domain's to say.

use firstcome_core::aws::operator::{DeadLetters, HeldLetter, Operator, Replayed};
use firstcome_core::{Clock, DeadLetter, Queue, SystemClock, Timestamp};
use serde_json::{Value, json};

use crate::arguments::{DlqCommand, LetterChoice, LetterFilter};
use crate::terminal::{Terminal, grouped};
use crate::undo::Undo;
use crate::{CommandError, Verdict};

/// How many letters are looked at to find one.
const SEARCHED: usize = 10_000;

pub(crate) async fn run(
    command: &DlqCommand,
    stack: &str,
    terminal: &Terminal,
    undo: &Undo,
) -> Result<Verdict, CommandError> {
    if let DlqCommand::Drop { yes: false, .. } = command {
        let message = "what is dropped is gone: add --yes to drop it".to_owned();
        return Err(CommandError::Usage(message));
    }
    let operator = Operator::find(stack).await?;
    let holder = operator.clone();
    undo.push("the dead letters were let go", async move {
        holder.let_all_go().await;
        Ok(())
    });
    match command {
        DlqCommand::List(filter) => list(&operator, filter, terminal).await,
        DlqCommand::Show { queue, id } => show(&operator, *queue, id, terminal).await,
        DlqCommand::Replay(choice) => replay(&operator, choice, terminal).await,
        DlqCommand::Drop { choice, .. } => discard(&operator, choice, terminal).await,
    }
}

/// What a look has shown, and which of it is meant.
struct Look {
    chosen: Vec<HeldLetter>,
    /// Let go after the others are done with: that takes long where there are thousands, and no hold lasts.
    others: Vec<HeldLetter>,
    counted: u64,
    held_by_others: u64,
    complete: bool,
    told: String,
}

/// Looks at a queue's letters, and holds them all.
async fn look(
    operator: &Operator,
    queue: Queue,
    most: usize,
    is_meant: impl Fn(&HeldLetter) -> bool,
) -> Result<Look, CommandError> {
    let dead = operator.hold_dead_letters(queue, most).await?;
    let (complete, told) = (dead.complete(), account(queue, &dead));
    let (chosen, others): (Vec<_>, Vec<_>) = dead.letters.into_iter().partition(is_meant);
    Ok(Look {
        chosen,
        others,
        counted: dead.counted,
        held_by_others: dead.held_by_others,
        complete,
        told,
    })
}

/// How much of the queue was seen, honestly: SQS counts approximately, and shows nobody what somebody else holds.
fn account(queue: Queue, dead: &DeadLetters) -> String {
    let seen = format!(
        "{queue}: {} dead letters seen",
        grouped(dead.letters.len() as u64)
    );
    if dead.complete() {
        return format!("{seen}, all there are");
    }
    let held = match dead.held_by_others {
        0 => String::new(),
        held => format!(", {} of them held by somebody else", grouped(held)),
    };
    let why = if dead.ended {
        "look again in a minute"
    } else {
        "there may be more: look again, or raise --limit"
    };
    format!(
        "{seen}; the queue counted {}{held}; {why}",
        grouped(dead.counted)
    )
}

fn passes(filter: &LetterFilter, letter: &HeldLetter) -> bool {
    let about = |campaign| letter.letter.is_about(campaign);
    filter.campaign.as_ref().is_none_or(about)
        && filter.reason.is_none_or(|reason| reason == letter.reason)
}

fn is_chosen(choice: &LetterChoice, letter: &HeldLetter) -> bool {
    passes(&choice.filter, letter) && (choice.all || choice.id.contains(&letter.message_id))
}

/// Whether a letter may be dropped: what could still be answered only if it was named.
fn may_be_dropped(choice: &LetterChoice, letter: &DeadLetter, now: Timestamp) -> bool {
    !choice.all || choice.filter.reason.is_some() || letter.replay(now).is_err()
}

async fn list(
    operator: &Operator,
    filter: &LetterFilter,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let meant = |letter: &HeldLetter| passes(filter, letter);
    let found = look(operator, filter.queue, limit(filter), meant).await?;
    operator.let_go(filter.queue, &found.chosen).await;
    operator.let_go(filter.queue, &found.others).await;
    if terminal.speaks_json() {
        let letters: Vec<Value> = found.chosen.iter().map(letter_json).collect();
        terminal.print_json(&json!({
            "queue": filter.queue.as_str(), "letters": letters,
            "counted": found.counted, "heldByOthers": found.held_by_others, "complete": found.complete,
        }));
    }
    for line in table(&found.chosen) {
        terminal.say(&line);
    }
    terminal.say(&found.told);
    Ok(Verdict::Held)
}

async fn show(
    operator: &Operator,
    queue: Queue,
    id: &str,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let found = look(operator, queue, SEARCHED, |letter| letter.message_id == id).await?;
    operator.let_go(queue, &found.chosen).await;
    operator.let_go(queue, &found.others).await;
    let Some(letter) = found.chosen.first() else {
        let message = format!("no dead letter {id} was seen ({})", found.told);
        return Err(CommandError::Usage(message));
    };
    let mut shown = letter_json(letter);
    shown["body"] = json!(letter.body);
    if terminal.speaks_json() {
        terminal.print_json(&shown);
        return Ok(Verdict::Held);
    }
    let fields = shown.as_object().into_iter().flatten();
    for (name, value) in fields.filter(|(name, _)| *name != "body") {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        terminal.say(&format!("{:<17}{value}", format!("{name}:")));
    }
    terminal.say_lines(&format!("\n{}", letter.body));
    Ok(Verdict::Held)
}

async fn replay(
    operator: &Operator,
    choice: &LetterChoice,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let queue = choice.filter.queue;
    let meant = |letter: &HeldLetter| is_chosen(choice, letter);
    let found = look(operator, queue, most(choice), meant).await?;
    let done = operator.replay_dead_letters(queue, &found.chosen).await?;

    let mut result = Outcome::of(choice, &found);
    let mut staying = Vec::new();
    for (letter, done) in found.chosen.into_iter().zip(done) {
        let id = letter.message_id.clone();
        match done {
            Replayed::Moved => {
                result.done.push(id);
                continue;
            }
            Replayed::SentOnly(error) => {
                result.left(id, format!("sent, but still here, too: {error}"))
            }
            Replayed::Refused(refusal) => result.left(id, refusal.to_string()),
            Replayed::NotSent(error) => result.left(id, error.to_string()),
        }
        staying.push(letter);
    }
    staying.extend(found.others);
    operator.let_go(queue, &staying).await;
    Ok(result.tell("replayed", queue, &found.told, terminal))
}

async fn discard(
    operator: &Operator,
    choice: &LetterChoice,
    terminal: &Terminal,
) -> Result<Verdict, CommandError> {
    let (queue, now) = (choice.filter.queue, SystemClock.now());
    let meant = |letter: &HeldLetter| is_chosen(choice, letter);
    let found = look(operator, queue, most(choice), meant).await?;
    let mut result = Outcome::of(choice, &found);
    let (doomed, mut staying): (Vec<_>, Vec<_>) = found
        .chosen
        .into_iter()
        .partition(|letter| may_be_dropped(choice, &letter.letter, now));
    for letter in &staying {
        let why = "it can be replayed: name it with --id or --reason to drop it";
        result.left(letter.message_id.clone(), why.to_owned());
    }
    let done = operator.drop_dead_letters(queue, &doomed).await?;
    for (letter, done) in doomed.into_iter().zip(done) {
        match done {
            Ok(()) => result.done.push(letter.message_id),
            Err(error) => {
                result.left(letter.message_id.clone(), error.to_string());
                staying.push(letter);
            }
        }
    }
    staying.extend(found.others);
    operator.let_go(queue, &staying).await;
    Ok(result.tell("dropped", queue, &found.told, terminal))
}

fn limit(filter: &LetterFilter) -> usize {
    usize::try_from(filter.limit).unwrap_or(SEARCHED)
}

/// Letters named by id are searched for as far as anybody may look.
fn most(choice: &LetterChoice) -> usize {
    if choice.all {
        limit(&choice.filter)
    } else {
        SEARCHED
    }
}

/// What became of the letters that were chosen.
struct Outcome {
    done: Vec<String>,
    left: Vec<(String, String)>,
    complete: bool,
}

impl Outcome {
    /// Nothing yet, except that letters were asked for and not seen.
    fn of(choice: &LetterChoice, found: &Look) -> Self {
        let seen = |id: &String| found.chosen.iter().any(|letter| letter.message_id == *id);
        let unseen = choice.id.iter().filter(|id| !seen(id));
        let why = "not among the letters seen, or not let through by the filters";
        Self {
            done: Vec::new(),
            left: unseen.map(|id| (id.clone(), why.to_owned())).collect(),
            complete: found.complete,
        }
    }

    fn left(&mut self, id: String, why: String) {
        self.left.push((id, why));
    }

    fn tell(&self, verb: &str, queue: Queue, told: &str, terminal: &Terminal) -> Verdict {
        if terminal.speaks_json() {
            let left: Vec<Value> = self
                .left
                .iter()
                .map(|(id, why)| json!({"messageId": id, "why": why}))
                .collect();
            let mut answer =
                json!({"queue": queue.as_str(), "left": left, "complete": self.complete});
            answer[verb] = json!(self.done);
            terminal.print_json(&answer);
        }
        for (id, why) in &self.left {
            terminal.say(&format!("left      {id}  {why}"));
        }
        let (done, left) = (self.done.len() as u64, self.left.len() as u64);
        terminal.say(&format!("{} {verb}, {} left", grouped(done), grouped(left)));
        terminal.say(told);
        if self.left.is_empty() {
            Verdict::Held
        } else {
            Verdict::Broken
        }
    }
}

fn letter_json(letter: &HeldLetter) -> Value {
    let refusal = letter.letter.replay(SystemClock.now()).err();
    let campaigns: Vec<String> = letter
        .letter
        .subjects()
        .into_iter()
        .map(|subject| subject.campaign_id.to_string())
        .collect();
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    json!({
        "messageId": letter.message_id,
        "reason": letter.reason.as_str(),
        "summary": letter.letter.summary(),
        "replayable": refusal.is_none(),
        "refusal": refusal.map(|refusal| refusal.to_string()),
        "campaigns": campaigns,
        "group": letter.group,
        "sentAt": time(letter.sent_at),
        "firstReceivedAt": time(letter.first_received_at),
        "receives": letter.receives,
        "bytes": letter.body.len(),
    })
}

fn table(letters: &[HeldLetter]) -> Vec<String> {
    let row = |id: &str, reason: &str, sent: &str, receives: &str, group: &str, what: &str| {
        format!("{id:<36}  {reason:<17}  {sent:<24}  {receives:>8}  {group:<26}  {what}")
    };
    let head = row("MESSAGE", "REASON", "SENT", "RECEIVES", "GROUP", "WHAT");
    let rows = letters.iter().map(|letter| {
        let sent = letter.sent_at.map(|at| at.to_string()).unwrap_or_default();
        let mut what = letter.letter.summary();
        if let Err(refusal) = letter.letter.replay(SystemClock.now())
            && letter.letter.complaint().is_none()
        {
            what = format!("{what}; no replay: {refusal}");
        }
        row(
            &letter.message_id,
            letter.reason.as_str(),
            &sent,
            &letter.receives.to_string(),
            letter.group.as_deref().unwrap_or("-"),
            &what,
        )
    });
    (!letters.is_empty())
        .then_some(head)
        .into_iter()
        .chain(rows)
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn choice(line: &str) -> LetterChoice {
        match Arguments::parse_from(line.split(' ')).command {
            Command::Dlq(DlqCommand::Drop { choice, .. }) => choice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_claim_that_can_still_be_answered_is_not_dropped_unless_it_is_named() {
        let now = SystemClock.now();
        let claim =
            r#"{"version":1,"claimId":"c1","partnerId":"acme","campaignId":"k","userId":"ann"}"#;
        let claim = DeadLetter::read(Queue::Claims, claim, Some("k"), Some(now));
        let garbage = DeadLetter::read(Queue::Claims, "garbage", Some("k"), Some(now));
        for (line, drops_claim) in [
            ("firstcome dlq drop --yes --all", false),
            ("firstcome dlq drop --yes --all --campaign k", false),
            (
                "firstcome dlq drop --yes --all --reason exhausted_retries",
                true,
            ),
            ("firstcome dlq drop --yes --id m", true),
        ] {
            let choice = choice(line);
            assert_eq!(may_be_dropped(&choice, &claim, now), drops_claim, "{line}");
            assert!(may_be_dropped(&choice, &garbage, now), "{line}");
        }
    }

    #[test]
    fn a_look_says_honestly_whether_it_saw_all() {
        let told = |counted, held_by_others, ended| {
            let dead = DeadLetters {
                letters: Vec::new(),
                counted,
                held_by_others,
                ended,
            };
            account(Queue::Claims, &dead)
        };
        assert_eq!(
            told(0, 0, true),
            "claims: 0 dead letters seen, all there are"
        );
        let held = told(3, 2, true);
        assert!(
            held.contains("counted 3, 2 of them held by somebody else"),
            "{held}"
        );
        assert!(told(0, 0, false).contains("raise --limit"));
    }
}
