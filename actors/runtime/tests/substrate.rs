//! What the runtime believes about actix, pinned: when an upgrade changes one of these, this file says so
//! before an engine misbehaves.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use futures::FutureExt;
use tokio::task::LocalSet;

/// The note that kills a recorder.
const DEADLY: u32 = u32::MAX;

#[derive(Default)]
struct Recorder {
    seen: Rc<RefCell<Vec<u32>>>,
    stops: Rc<RefCell<u32>>,
}

impl Actor for Recorder {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Context<Self>) {
        *self.stops.borrow_mut() += 1;
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Note(u32);

impl Handler<Note> for Recorder {
    type Result = u32;

    fn handle(&mut self, Note(n): Note, _: &mut Context<Self>) -> u32 {
        assert_ne!(n, DEADLY, "asked to die");
        self.seen.borrow_mut().push(n);
        n
    }
}

fn start<A: Actor<Context = Context<A>>>(actor: A, capacity: usize) -> Addr<A> {
    let (sender, receiver) = actix::dev::channel::channel(capacity);
    let life = Context::with_receiver(receiver).into_future(actor);
    tokio::task::spawn_local(AssertUnwindSafe(life).catch_unwind());
    Addr::new(sender)
}

fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test)
}

#[test]
fn an_actor_needs_a_local_runtime_and_no_system() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a local runtime");
    runtime.block_on(async {
        assert!(System::try_current().is_none());
        assert_eq!(start(Recorder::default(), 0).send(Note(7)).await.expect("answered"), 7);
        assert!(System::try_current().is_none());
    });
}

#[test]
fn capacity_zero_is_unbounded_and_first_in_first_out() {
    local(async {
        let recorder = Recorder::default();
        let seen = recorder.seen.clone();
        let addr = start(recorder, 0);
        for n in 0..10_000 {
            addr.do_send(Note(n));
        }
        assert_eq!(addr.send(Note(10_000)).await.expect("answered"), 10_000);
        assert!(seen.borrow().iter().copied().eq(0..=10_000));
    });
}

#[test]
fn a_bounded_mailbox_reorders_and_does_not_push_back() {
    local(async {
        let recorder = Recorder::default();
        let seen = recorder.seen.clone();
        let addr = start(recorder, 1);
        let parked: Vec<_> = (0..50).map(|n| addr.send(Note(n))).collect();
        addr.do_send(Note(999));
        futures::future::join_all(parked).await;
        let place =
            seen.borrow().iter().position(|n| *n == 999).expect("delivered: do_send ignores the bound");
        assert!(place < 50, "overtook messages sent before it: that is why the runtime uses capacity 0");
    });
}

#[test]
fn a_request_whose_sender_gave_up_is_skipped() {
    local(async {
        let recorder = Recorder::default();
        let seen = recorder.seen.clone();
        let addr = start(recorder, 0);
        {
            let mut request = Box::pin(addr.send(Note(1)));
            assert!(request.as_mut().now_or_never().is_none());
        }
        addr.send(Note(2)).await.expect("answered");
        assert_eq!(*seen.borrow(), [2], "why the runtime uses do_send with a reply of its own");
    });
}

#[test]
fn a_panic_ends_that_actor_alone_and_its_waiting_messages_are_dropped() {
    local(async {
        let (doomed, neighbour) = (start(Recorder::default(), 0), start(Recorder::default(), 0));
        let waiting = (doomed.send(Note(1)), doomed.send(Note(DEADLY)), doomed.send(Note(3)));
        let (first, second, third) = futures::join!(waiting.0, waiting.1, waiting.2);
        assert_eq!(first.expect("handled before"), 1);
        assert!(matches!(second, Err(MailboxError::Closed)));
        assert!(matches!(third, Err(MailboxError::Closed)));
        assert!(!doomed.connected());
        assert_eq!(neighbour.send(Note(4)).await.expect("lives"), 4);
    });
}

#[test]
fn stopped_runs_while_a_panic_unwinds() {
    local(async {
        let recorder = Recorder::default();
        let stops = recorder.stops.clone();
        let addr = start(recorder, 0);
        let _ = addr.send(Note(DEADLY)).await;
        assert_eq!(*stops.borrow(), 1, "why the runtime's cell has no `stopped`");
    });
}

#[test]
fn an_actor_without_addresses_stops_by_itself() {
    local(async {
        let recorder = Recorder::default();
        let stops = recorder.stops.clone();
        drop(start(recorder, 0));
        tokio::time::timeout(Duration::from_secs(5), async {
            while *stops.borrow() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it stopped");
    });
}

#[test]
fn do_send_to_a_stopped_actor_drops_the_message_quietly() {
    local(async {
        let addr = start(Recorder::default(), 0);
        let _ = addr.send(Note(DEADLY)).await;
        let (sender, answer) = tokio::sync::oneshot::channel::<u32>();
        struct Ask(tokio::sync::oneshot::Sender<u32>);
        impl actix::Message for Ask {
            type Result = ();
        }
        impl Handler<Ask> for Recorder {
            type Result = ();
            fn handle(&mut self, ask: Ask, _: &mut Context<Self>) {
                let _ = ask.0.send(1);
            }
        }
        addr.do_send(Ask(sender));
        assert!(answer.await.is_err(), "the reply is dropped with the message, so the asker learns of it");
    });
}

#[test]
fn a_message_sent_by_a_handler_comes_after_those_already_waiting() {
    struct Echo {
        seen: Rc<RefCell<Vec<u32>>>,
    }
    impl Actor for Echo {
        type Context = Context<Self>;
    }
    impl Handler<Note> for Echo {
        type Result = u32;
        fn handle(&mut self, Note(n): Note, ctx: &mut Context<Self>) -> u32 {
            self.seen.borrow_mut().push(n);
            if n == 1 {
                ctx.address().do_send(Note(100));
            }
            n
        }
    }
    local(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let addr = start(Echo { seen: seen.clone() }, 0);
        let (a, b) = (addr.send(Note(1)), addr.send(Note(2)));
        futures::future::join(a, b).await.0.expect("answered");
        addr.send(Note(3)).await.expect("answered");
        assert_eq!(*seen.borrow(), [1, 2, 100, 3]);
    });
}
