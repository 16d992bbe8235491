//! One direction of a stream: its position, and what is done to its body.

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{HeaderMutation, HttpBody, TrailersResponse};

use super::{
    OutOfOrder, Step,
    answer::{Echo, Side, answer, with_body, with_headers},
    framing::Framing,
    mode::BodyMode,
};
use crate::{
    ext_proc::{
        BodyRefusal,
        mutation::overwrite,
        transform::{Mark, Transform, join},
    },
    injection::{Progress, Resolution, Scanner, Skipped},
};

/// One direction of a stream.
pub(super) struct Direction {
    side: Side,
    at: Position,
    /// How its body comes.
    pub(super) mode: BodyMode,
    pub(super) framing: Framing,
    work: Work,
    /// Bytes of the body so far.
    seen: u64,
    /// Longest body that is taken as a whole.
    limit: usize,
    pending: Option<Pending>,
    /// Whether headers wait for credentials that are made of the whole body.
    signs: bool,
    /// Whether trailers pass without being shown.
    pub(super) trailers_hidden: bool,
    /// The whole body, if it was changed, that waits for them.
    unsigned: Option<Bytes>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Position {
    /// Nothing was sent; headers come first unless their mode is SKIP.
    #[default]
    Start,
    /// After headers or a part of the body.
    Open,
    /// After end of stream.
    Ended,
    /// After trailers.
    Trailed,
}

/// What is done to a body.
#[derive(Default)]
pub(in crate::ext_proc) enum Work {
    /// Nothing.
    #[default]
    Pass,
    /// References in it are replaced.
    Scan(Scan),
    /// It is changed as it passes.
    Transform(Box<dyn Transform>),
}

/// References in a body, and what is done about those that cannot be replaced.
pub struct Scan {
    pub(crate) scanner: Scanner,
    /// Whether the message is refused that has references in a body of which only a part
    /// is to be seen.
    pub(crate) strict: bool,
    /// Whether the message is refused that has no reference.
    pub(crate) required: bool,
}

/// A message that is not answered yet.
struct Pending {
    mark: Mark,
    out: Vec<Bytes>,
    /// The message without its bytes.
    like: HttpBody,
    /// Whether nothing of the body is to come.
    last: bool,
}

// === impl Direction ===

impl Direction {
    pub(super) fn new(side: Side, limit: usize) -> Self {
        Self {
            side,
            at: Position::Start,
            mode: BodyMode::None,
            framing: Framing::default(),
            work: Work::Pass,
            seen: 0,
            limit,
            pending: None,
            signs: false,
            trailers_hidden: false,
            unsigned: None,
        }
    }

    /// Whether anything of its body was seen, or there is none.
    pub(super) fn has_begun(&self) -> bool {
        self.seen > 0 || matches!(self.at, Position::Ended | Position::Trailed)
    }

    /// References that were left as they are, since the last call.
    pub(super) fn skipped(&mut self) -> Skipped {
        match &mut self.work {
            Work::Scan(scan) => scan.scanner.skipped(),
            Work::Pass | Work::Transform(_) => Skipped::default(),
        }
    }

    pub(super) fn started(&self) -> bool {
        self.at != Position::Start
    }

    pub(super) fn headers(&mut self, framing: Framing) -> Result<(), OutOfOrder> {
        if self.at != Position::Start {
            return Err(OutOfOrder::Headers);
        }
        self.at = if framing.ends { Position::Ended } else { Position::Open };
        self.framing = framing;
        Ok(())
    }

    pub(super) fn work(&mut self, work: Work) {
        self.work = work;
    }

    pub(super) fn signs(&mut self, signs: bool) {
        self.signs = signs;
    }

    /// Whether the answer to the headers has to take their `content-length` away, since
    /// the body may get another length and is not held until that is known. Envoy does so
    /// by itself only where the mode was not overridden.
    pub(super) fn loses_length(&self) -> bool {
        !matches!(self.work, Work::Pass)
            && matches!(self.mode, BodyMode::Streamed | BodyMode::Duplex)
            && self.framing.length.is_some()
    }

    /// Whether bytes were taken that nobody will ask for any more, now that the other
    /// side has answered. Where trailers end a body that comes in chunks, and are not
    /// shown, that is how it looks.
    pub(super) fn is_cut_off(&self) -> bool {
        self.at == Position::Open && self.mode == BodyMode::Streamed && self.held() > 0
    }

    /// Whether a body was to come and never did: Envoy did not heed the override.
    pub(super) fn is_unseen(&self) -> bool {
        let wanted = self.signs || !matches!(self.work, Work::Pass);
        self.at == Position::Open && self.seen == 0 && wanted
    }

    /// Whether the message may not go on without its body having been seen.
    pub(super) fn must_be_seen(&self) -> bool {
        self.signs || self.is_required()
    }

    /// Whether a reference had to be in the body that did not come.
    fn is_required(&self) -> bool {
        matches!(&self.work, Work::Scan(scan) if scan.required && scan.scanner.replaced() == 0)
    }

    fn held(&self) -> usize {
        match &self.work {
            Work::Pass => 0,
            Work::Scan(scan) => scan.scanner.held(),
            Work::Transform(transform) => transform.held(),
        }
    }

    pub(super) fn body(&mut self, mut message: HttpBody) -> Result<Step, OutOfOrder> {
        let ends = message.end_of_stream || message.end_of_stream_without_message;
        match self.at {
            Position::Start | Position::Open => {}
            // Envoy may say twice that a stream has ended. Where it waits for an
            // answer it still gets one, below.
            Position::Ended if ends && message.body.is_empty() => {
                return Ok(match self.mode {
                    BodyMode::Duplex | BodyMode::Messages => Step::Nothing,
                    _ => answer(self.side.body(None)),
                });
            }
            Position::Ended | Position::Trailed => return Err(OutOfOrder::Body),
        }
        self.at = if ends { Position::Ended } else { Position::Open };
        match self.mode {
            BodyMode::Unknown => return Err(OutOfOrder::BodyMode),
            BodyMode::Messages => return Ok(Step::Echo(Echo::message(self.side, message))),
            BodyMode::None
            | BodyMode::Buffered
            | BodyMode::BufferedPartial
            | BodyMode::Streamed
            | BodyMode::Duplex => {}
        }
        let chunk = Bytes::from(std::mem::take(&mut message.body));
        self.seen += chunk.len() as u64;
        if matches!(self.work, Work::Pass) && !self.signs {
            return Ok(match self.mode {
                BodyMode::Duplex => Step::Echo(Echo::body(self.side, vec![chunk], message)),
                _ => answer(self.side.body(None)),
            });
        }
        let whole = match self.framing.length {
            Some(length) if self.seen > length => return Err(OutOfOrder::Length),
            Some(length) => self.seen == length,
            None => false,
        };
        let last = match self.mode {
            // A body that is sent as a whole is one message, also where trailers follow and
            // it is not the end of the stream. Other data planes send an empty one after it.
            BodyMode::Buffered | BodyMode::BufferedPartial => {
                if chunk.is_empty() && self.seen > 0 {
                    return Ok(answer(self.side.body(None)));
                }
                if self.seen > chunk.len() as u64 {
                    return Err(OutOfOrder::Body);
                }
                // A length that is announced tells a part from the whole.
                let partial =
                    self.framing.length.is_some() || self.mode == BodyMode::BufferedPartial;
                if partial && !ends && !whole {
                    return Ok(self.part(&chunk));
                }
                // Trailers follow, of which nothing could be taken out.
                if !ends && self.trailers_hidden && matches!(self.work, Work::Transform(_)) {
                    return Ok(Step::Refuse(BodyRefusal::Held));
                }
                if self.seen > self.limit as u64 {
                    return Ok(Step::Refuse(BodyRefusal::TooLarge));
                }
                true
            }
            BodyMode::Streamed => ends || whole,
            BodyMode::None | BodyMode::Duplex | BodyMode::Messages | BodyMode::Unknown => ends,
        };
        self.pending =
            Some(Pending { mark: Mark::of(&chunk), out: Vec::new(), like: message, last });
        Ok(self.take(chunk))
    }

    /// The beginning of a body, of which nothing more will be seen.
    fn part(&mut self, chunk: &[u8]) -> Step {
        let refused = match &self.work {
            _ if self.signs => true,
            Work::Pass => false,
            Work::Scan(scan) => scan.required || scan.strict && scan.scanner.suspects(chunk),
            Work::Transform(_) => true,
        };
        self.work = Work::Pass;
        match refused {
            true => Step::Refuse(BodyRefusal::Incomplete),
            false => answer(self.side.body(None)),
        }
    }

    fn take(&mut self, chunk: Bytes) -> Step {
        let Some(pending) = &mut self.pending else { return Step::Nothing };
        let progress = match &mut self.work {
            Work::Pass => {
                pending.out.push(chunk);
                Progress::Idle
            }
            Work::Scan(scan) if pending.last => scan.scanner.push_last(chunk, &mut pending.out),
            Work::Scan(scan) => scan.scanner.push(chunk, &mut pending.out),
            Work::Transform(transform) => {
                transform.push(chunk, &mut pending.out);
                Progress::Idle
            }
        };
        self.progress(progress)
    }

    /// Goes on, now that this is known.
    pub(super) fn resolved(&mut self, resolutions: Vec<(String, Resolution)>) -> Step {
        let (Some(pending), Work::Scan(scan)) = (&mut self.pending, &mut self.work) else {
            return Step::Nothing;
        };
        let progress = scan.scanner.resolved(resolutions, &mut pending.out);
        self.progress(progress)
    }

    fn progress(&mut self, progress: Progress) -> Step {
        match progress {
            Progress::Needs(needs) => return Step::Resolve(needs),
            Progress::TooMany => return Step::Refuse(BodyRefusal::TooMany),
            Progress::Misplaced => return Step::Refuse(BodyRefusal::Position),
            Progress::Idle => {}
        }
        if self.pending.as_ref().is_some_and(|pending| pending.last)
            && let Some(step) = self.finish()
        {
            return step;
        }
        match self.pending.take() {
            Some(pending) => self.finished(pending),
            None => Step::Nothing,
        }
    }

    /// The body has ended: what was held back follows.
    fn finish(&mut self) -> Option<Step> {
        let pending = self.pending.as_mut()?;
        let progress = match &mut self.work {
            Work::Pass => Progress::Idle,
            Work::Scan(scan) => scan.scanner.finish(&mut pending.out),
            Work::Transform(transform) => {
                transform.finish(&mut pending.out);
                Progress::Idle
            }
        };
        match progress {
            Progress::Idle => {}
            Progress::Needs(needs) => return Some(Step::Resolve(needs)),
            Progress::TooMany => return Some(Step::Refuse(BodyRefusal::TooMany)),
            Progress::Misplaced => return Some(Step::Refuse(BodyRefusal::Position)),
        }
        self.is_required().then_some(Step::Refuse(BodyRefusal::NoReference))
    }

    fn finished(&mut self, pending: Pending) -> Step {
        let Pending { mark, out, like, last } = pending;
        let unchanged = mark.is(&out);
        match self.mode {
            BodyMode::Buffered if last && self.signs => {
                self.signs = false;
                let body = Bytes::from(join(out));
                self.unsigned = (!unchanged).then(|| body.clone());
                Step::Sign(body, !unchanged)
            }
            // Only there do headers wait for it.
            _ if self.signs => Step::Refuse(BodyRefusal::Incomplete),
            BodyMode::Duplex => Step::Echo(Echo::body(self.side, out, like)),
            // Envoy has its own copy.
            _ if unchanged => answer(self.side.body(None)),
            BodyMode::Buffered | BodyMode::BufferedPartial if last => {
                self.whole(join(out), HeaderMutation::default())
            }
            _ => answer(self.side.body(Some(with_body(join(out))))),
        }
    }

    /// Answers with another whole body.
    fn whole(&self, body: Vec<u8>, mut headers: HeaderMutation) -> Step {
        // Envoy compares the two, after it has changed the header.
        if self.framing.length.is_some() {
            let length = body.len().to_string().into_bytes();
            headers.set_headers.push(overwrite("content-length", length));
        }
        let mut common = with_body(body);
        common.header_mutation = (headers != HeaderMutation::default()).then_some(headers);
        answer(self.side.body(Some(common)))
    }

    /// Goes on, with these headers made of the whole body.
    pub(super) fn signed(&mut self, headers: HeaderMutation) -> Step {
        match self.unsigned.take() {
            Some(body) => self.whole(body.into(), headers),
            None => answer(self.side.body(with_headers(headers))),
        }
    }

    /// Trailers, which may themselves be changed.
    pub(super) fn trailers(&mut self, mutation: HeaderMutation) -> Result<Step, OutOfOrder> {
        if matches!(self.at, Position::Ended | Position::Trailed) {
            return Err(OutOfOrder::Trailers);
        }
        self.at = Position::Trailed;
        if self.signs {
            // Nothing came before them, so that Envoy asked about no body. Headers that wait
            // for it cannot be changed any more.
            return Ok(Step::Refuse(BodyRefusal::Held));
        }
        let mutation = (mutation != HeaderMutation::default()).then_some(mutation);
        let trailers = TrailersResponse { header_mutation: mutation };
        let done = matches!(self.mode, BodyMode::Buffered | BodyMode::BufferedPartial);
        if matches!(self.work, Work::Pass) || done {
            return Ok(answer(self.side.trailers(trailers)));
        }
        let mark = Mark::of(&Bytes::new());
        let like = HttpBody::default();
        self.pending = Some(Pending { mark, out: Vec::new(), like, last: true });
        if let Some(step) = self.finish() {
            return Ok(match step {
                // Nothing that is complete can be among what was held back.
                Step::Resolve(_) => Step::Refuse(BodyRefusal::Held),
                step => step,
            });
        }
        let held = self.pending.take().map(|pending| pending.out).unwrap_or_default();
        Ok(match (self.mode, held.is_empty()) {
            (_, true) => answer(self.side.trailers(trailers)),
            (BodyMode::Duplex, false) => Step::Echo(Echo::trailers(self.side, held, trailers)),
            // No answer to trailers can carry them, and Envoy waits for none other.
            (_, false) => Step::Refuse(BodyRefusal::Held),
        })
    }
}
