//! Every size that a client takes, every size of an answer, both transports, every manner of an upstream: the client has
//! the whole answer, or is told to come over TCP and has it there.

mod common;
#[path = "common/fake.rs"]
mod fake;
#[path = "common/site.rs"]
mod site;

use std::time::Duration;

use common::{Question, TXT, read};
use fake::{Fake, Manner, answer};
use netloom_dns::forward::Budget;
use netloom_dns::records::View;
use netloom_dns::server::Options;
use site::{Site, isolated, upstreams};

#[test]
fn the_client_has_the_whole_answer_or_has_it_over_tcp() {
    isolated(|| async {
        let manners = [
            Manner::Honest,
            Manner::Cuts,
            Manner::Oversized,
            Manner::TcpOnly,
            Manner::TcpAnswers,
            Manner::UdpOnly,
            Manner::WrongId,
        ];
        let budget = Budget { all: Duration::from_secs(15), each: Duration::from_millis(50) };
        for manner in manners {
            let upstream = Fake::start(manner).await;
            let options = Options { budget, ..Options::default() };
            let site = Site::start(View::default(), options, &upstreams(&[upstream.at]));
            for edns in [None, Some(512), Some(1232), Some(4096)] {
                for size in [10, 440, 470, 1150, 3800, 5000, 40_000] {
                    let context = format!("{manner:?}, EDNS {edns:?}, an answer of {size}");
                    let query = Question {
                        edns: edns.map(|size| (size, 0)),
                        ..Question::new(&format!("{size}.example"), TXT)
                    };
                    let query = query.bytes();
                    let whole = answer(&query, 1);
                    let limit = usize::from(edns.unwrap_or(512));
                    let over_udp = site.udp(&query).await;
                    assert!(over_udp.len() <= limit, "{context}: {} bytes", over_udp.len());
                    let told = read(&over_udp);
                    assert_eq!(told.rcode, 0, "{context}");
                    let must_fit = whole.len() <= limit && manner != Manner::Cuts;
                    assert_eq!(told.cut, !must_fit, "{context}");
                    if !told.cut {
                        assert_eq!(over_udp, whole, "{context}");
                    }
                    let over_tcp = site.tcp(&query).await;
                    // Nobody can have from an upstream without TCP what it does not send over UDP.
                    if manner == Manner::UdpOnly && whole.len() > limit {
                        assert!(read(&over_tcp).cut, "{context}");
                    } else {
                        assert_eq!(over_tcp, whole, "{context}");
                    }
                }
            }
            let counts = site.names.counts();
            assert_eq!(counts.forwarded, counts.questions, "{manner:?}: {counts:?}");
            let mismatched = site.names.upstreams()[0].mismatched;
            assert_eq!(mismatched > 0, manner == Manner::WrongId, "{manner:?}: {mismatched}");
            assert!(counts.cut > 0 || manner != Manner::Oversized, "{counts:?}");
        }
    });
}
