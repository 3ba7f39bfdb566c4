//! Text generation below the command line: stop strings, conversations, the engine's thread.

use crate::toy::Toy;
use mlx_lm::chat::Message;
use mlx_lm::engine::{Engine, Options, Prompt};
use mlx_lm::generate::{FinishReason, Session, StopStrings, TokenOptions};
use mlx_lm::{StreamOptions, load};

/// What comes out piece by piece, and whether it stopped.
fn feed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
    let mut s = StopStrings::new(stops.iter().map(|s| s.to_string()));
    let mut out = vec![];
    for p in pieces {
        let (text, stop) = s.push(p);
        out.push(text);
        if stop {
            return (out, true);
        }
    }
    out.push(s.finish());
    (out, false)
}

#[test]
fn a_stop_string_is_withheld_until_it_is_known() {
    let text = |v: &[&str]| v.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    assert_eq!(feed(&[], &["a", "b"]), (text(&["a", "b", ""]), false));
    assert_eq!(feed(&["END"], &["x E", "N", "D y"]), (text(&["x ", "", ""]), true));
    assert_eq!(feed(&["END"], &["x E", "N", "x"]), (text(&["x ", "", "ENx", ""]), false));
    assert_eq!(feed(&["END"], &["E", "E", "ND"]), (text(&["", "E", ""]), true));
    assert_eq!(feed(&["END"], &["x EN"]), (text(&["x ", "EN"]), false), "the end gives back what was held");
    assert_eq!(feed(&["bc", "abcd"], &["ab", "c"]), (text(&["", "a"]), true), "the first that is met wins");
    assert_eq!(feed(&["aab"], &["a", "a", "a", "b"]), (text(&["", "", "a", ""]), true));
    assert_eq!(feed(&["天気"], &["今日は天", "気"]), (text(&["今日は", ""]), true));
    assert_eq!(feed(&[""], &["a"]), (text(&["a", ""]), false), "an empty string stops nothing");
}

fn options<'a>(max_tokens: usize) -> StreamOptions<'a> {
    let tokens = TokenOptions { max_tokens: Some(max_tokens), ..TokenOptions::default() };
    StreamOptions { tokens, ..StreamOptions::default() }
}

#[test]
fn a_conversation_answers_as_if_it_were_read_anew_each_time() {
    let toy = Toy::new();
    toy.tokenizer();
    let lm = load(toy.path()).unwrap();
    let mut session = Session::new(&lm, Some("w9")).unwrap();
    let mut history = vec![Message::system("w9")];
    for (i, turn) in ["w7 w8", "w20 w21 w22", "w30"].iter().enumerate() {
        let (mut answer, mut prompt) = (String::new(), 0);
        let reason = session.send(turn, options(5), &mut |r| {
            answer.push_str(&r.text);
            prompt = r.stats.prompt_tokens;
            true
        });
        assert_eq!(reason.unwrap(), Some(FinishReason::Length));
        history.push(Message::user(*turn));
        let ids = lm.chat_ids(&history).unwrap();
        assert_eq!(answer, lm.generate(&ids, options(5)).unwrap(), "turn {i}");
        assert!(i == 0 || prompt < ids.len(), "earlier turns are in the cache: {prompt} of {}", ids.len());
        history.push(Message::assistant(answer));
    }
    assert_eq!(session.messages(), history);
    // an answer cut short still leaves a cache that tells the truth
    let mut n = 0;
    session
        .send("w40", options(50), &mut |_| {
            n += 1;
            n < 3
        })
        .unwrap();
    assert_eq!(n, 3);
    let mut answer = String::new();
    session
        .send("w41", options(4), &mut |r| {
            answer.push_str(&r.text);
            true
        })
        .unwrap();
    let ids = lm.chat_ids(&session.messages()[..session.messages().len() - 1]).unwrap();
    assert_eq!(answer, lm.generate(&ids, options(4)).unwrap());
    session.reset().unwrap();
    assert_eq!((session.messages().len(), session.cached()), (1, 0));
}

#[test]
fn the_engine_answers_from_its_thread_and_a_dropped_answer_is_cancelled() {
    let toy = Toy::new();
    toy.tokenizer();
    let engine = Engine::start(toy.path()).unwrap();
    let options = |max_tokens| Options { max_tokens, ..Options::default() };
    // nobody waits for this one: it must not hold up the next
    drop(engine.submit(Prompt::Ids(vec![1]), options(100_000_000)));
    let events: Vec<_> = engine.submit(Prompt::Ids(toy.prompt()), options(13)).collect::<Result<_, _>>().unwrap();
    assert_eq!(events.iter().map(|e| e.token).collect::<Vec<_>>(), toy.greedy());
    assert_eq!(events.last().unwrap().finish_reason, Some(FinishReason::Length));
    // from another thread, and errors as events
    let failed = std::thread::scope(|s| {
        s.spawn(|| engine.submit(Prompt::Ids(vec![]), options(1)).collect::<Vec<_>>()).join().unwrap()
    });
    assert_eq!(failed.len(), 1);
    assert!(failed[0].as_ref().unwrap_err().to_string().contains("no tokens"));
    let chat = engine.submit(Prompt::Chat(vec![Message::user("w7")]), options(2)).count();
    assert_eq!(chat, 2);
    drop(engine.submit(Prompt::Text("w7".into()), options(100_000_000)));
    drop(engine);
    assert!(Engine::start("/no/such/model").is_err());
}

#[test]
fn events_can_be_awaited_on_any_runtime() {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake};
    /// The smallest runtime: parks the thread.
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<T>(f: impl Future<Output = T>) -> T {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut f = pin!(f);
        loop {
            match f.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => std::thread::park(),
            }
        }
    }
    let toy = Toy::new();
    let engine = Engine::start(toy.path()).unwrap();
    let mut events = engine.submit(Prompt::Ids(toy.prompt()), Options { max_tokens: 5, ..Options::default() });
    let tokens = block_on(async {
        let mut tokens = vec![];
        while let Some(event) = events.next().await {
            tokens.push(event.unwrap().token);
        }
        tokens
    });
    assert_eq!(tokens, toy.greedy()[..5]);
}

/// Layers with recurrent state cannot be trimmed: they go back to where the answer began.
#[test]
fn answers_that_are_shown_otherwise_cost_hybrids_no_second_reading() {
    let toy = Toy::of("qwen3_next");
    toy.tokenizer();
    let template = "{% for m in messages %}w1 {% if m.role == 'assistant' %}w5{% else %}{{ m.content }}{% endif %} w2 \
                    {% endfor %}{% if add_generation_prompt %}w3{% endif %}";
    let config = serde_json::json!({"chat_template": template});
    std::fs::write(toy.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let lm = load(toy.path()).unwrap();
    let mut session = Session::new(&lm, Some("w9 w8 w7 w6")).unwrap();
    let mut history = vec![Message::system("w9 w8 w7 w6")];
    for (i, turn) in ["w7 w8 w30 w31", "w20 w21 w22", "w30"].iter().enumerate() {
        let (mut answer, mut read) = (String::new(), 0);
        session
            .send(turn, options(6), &mut |r| {
                answer.push_str(&r.text);
                read = r.stats.prompt_tokens;
                true
            })
            .unwrap();
        history.push(Message::user(*turn));
        let ids = lm.chat_ids(&history).unwrap();
        assert_eq!(answer, lm.generate(&ids, options(6)).unwrap(), "turn {i}");
        // the mark of the answer's start, the answer in short, the new turn
        let new = [ids.len(), 9, 7][i];
        assert!(read <= new, "turn {i}: {read} of {} read", ids.len());
        history.push(Message::assistant(answer));
    }
}
