//! The gRPC side: who is let in, and the tasks of streams.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use highwater_protocol::v1;
use highwater_protocol::v1::records_server::Records;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::{ending, status};
use crate::publish::{self, Accepted};
use crate::read::Reading;
use crate::state::State;
use crate::subscribe;

/// Answers that may wait for a reader, beyond what HTTP/2 holds.
const ANSWERS_AHEAD: usize = 1;

pub(crate) struct Service {
    state: Arc<State>,
}

impl Service {
    pub fn new(state: Arc<State>) -> Self {
        Self { state }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Records for Service {
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let _room = self.state.call().map_err(status)?;
        let request = request.into_inner();
        let correlation_id = request.correlation_id;
        let accepted = publish::accept(&self.state, request).await.map_err(status)?;
        let results = accepted.results().await;
        match publish::failure(&results) {
            Some(error) => Err(status(error)),
            None => Ok(Response::new(v1::PublishResponse { correlation_id, results, error: None })),
        }
    }

    type PublishStreamStream = Answers<v1::PublishResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let room = self.state.stream().map_err(status)?;
        let (accepted, to_settle) = mpsc::channel(self.state.limits.stream_requests_max);
        let (answers, out) = mpsc::channel(ANSWERS_AHEAD);
        tokio::spawn(take_requests(Arc::clone(&self.state), request.into_inner(), accepted));
        tokio::spawn(async move {
            answer_requests(to_settle, answers).await;
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    type ReadStream = Answers<v1::ReadResponse>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let room = self.state.stream().map_err(status)?;
        let client = self.state.client().await.map_err(status)?;
        let reading = Reading::open(client, request.into_inner(), &self.state.limits).await.map_err(status)?;
        let (answers, out) = mpsc::channel(ANSWERS_AHEAD);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let last = tokio::select! {
                biased;
                () = state.ending.cancelled() => Err(ending()),
                () = answers.closed() => return,
                ended = read_on(reading, &answers) => ended,
            };
            if let Err(error) = last {
                // The reader may be gone, which is an end too.
                let _ = answers.send(Err(status(error))).await;
            }
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let room = self.state.stream().map_err(status)?;
        let (answers, out) = mpsc::channel(ANSWERS_AHEAD);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            Box::pin(subscribe::subscribe(state, request.into_inner(), answers)).await;
            drop(room);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

/// A request of a publish stream, on its way to its answer. The last one may be the stream's end.
enum Step {
    Taken { correlation_id: u64, accepted: Result<Accepted, v1::Error> },
    End(Status),
}

/// Takes requests in order, and no more than may wait for their answers.
async fn take_requests(state: Arc<State>, mut requests: Streaming<v1::PublishRequest>, taken: mpsc::Sender<Step>) {
    loop {
        let request = tokio::select! {
            biased;
            () = state.ending.cancelled() => {
                // What was taken is still answered, before this.
                let _ = taken.send(Step::End(status(ending()))).await;
                return;
            }
            () = taken.closed() => return,
            request = requests.message() => request,
        };
        let step = match request {
            Ok(Some(request)) => {
                Step::Taken { correlation_id: request.correlation_id, accepted: publish::accept(&state, request).await }
            }
            Ok(None) => return,
            Err(status) => Step::End(status),
        };
        let is_last = matches!(step, Step::End(_));
        if taken.send(step).await.is_err() || is_last {
            return;
        }
    }
}

/// Answers in the order of the requests.
async fn answer_requests(mut taken: mpsc::Receiver<Step>, answers: mpsc::Sender<Result<v1::PublishResponse, Status>>) {
    while let Some(step) = taken.recv().await {
        let answer = match step {
            Step::Taken { correlation_id, accepted } => {
                let (results, error) = match accepted {
                    Ok(accepted) => {
                        let results = accepted.results().await;
                        let error = publish::failure(&results);
                        (results, error)
                    }
                    Err(error) => (Vec::new(), Some(error)),
                };
                Ok(v1::PublishResponse { correlation_id, results, error })
            }
            Step::End(status) => Err(status),
        };
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}

async fn read_on(
    mut reading: Reading,
    answers: &mpsc::Sender<Result<v1::ReadResponse, Status>>,
) -> Result<(), v1::Error> {
    while let Some(batch) = reading.next().await? {
        for answer in batch {
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
