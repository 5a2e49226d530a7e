//! How much one owner asks at once, over all its connections. Some of it may wait for the node's inbox at a time, where others wait too; what is above waits for
//! its turn here; and what is above even that is refused, so that what waits takes little memory. It looks into no request.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tower::{Layer, Service};

use super::peer::Known;

/// So many are on their way into the node's inbox at once: others wait for them as long as the node takes for these.
const AT_ONCE: usize = 256;
/// So many are here at once, those included of which not all has come yet.
const MOST: usize = 8192;

/// What an owner asks.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    turns: Arc<Semaphore>,
    crowd: Arc<Semaphore>,
}

/// That it is an owner's turn, for as long as this lives; nothing is there only if turns are not counted any more.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

impl Default for Asking {
    fn default() -> Self {
        Self::of(AT_ONCE, MOST)
    }
}

impl Asking {
    fn of(at_once: usize, most: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once)), crowd: Arc::new(Semaphore::new(most)) }
    }

    /// Waits for its turn: for a request that is here as a whole, since nobody may keep others waiting by sending half of one.
    pub(super) async fn turn(&self) -> Turn {
        // It is never closed.
        self.turns.clone().acquire_owned().await.ok()
    }

    #[cfg(test)]
    pub(super) fn is_of_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.turns, &other.turns) && Arc::ptr_eq(&self.crowd, &other.crowd)
    }
}

/// Counts each owner's requests, and refuses what is too many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowd;

/// A service before which requests are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S>(S);

impl<S> Layer<S> for Crowd {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted(inner)
    }
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>, Error: Send + 'static, Future: Send + 'static> + Send + 'static,
    B: Default + Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let crowd = request.extensions().get::<Known>().map(|known| known.asking.crowd.clone());
        let Ok(place) = crowd.map(Semaphore::try_acquire_owned).transpose() else {
            let refused = Status::resource_exhausted(format!("more than {MOST} requests at once: wait for answers"));
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        };
        let answer = self.0.call(request);
        Box::pin(async move {
            let _place = place;
            answer.await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use futures::poll;
    use tokio::sync::oneshot;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    type Answer = oneshot::Receiver<u8>;

    fn of(asking: &Asking) -> (oneshot::Sender<u8>, Request<Answer>) {
        let (answer, asked) = oneshot::channel();
        let mut request = Request::new(asked);
        request.extensions_mut().insert(Known::with(asking.clone()));
        (answer, request)
    }

    #[tokio::test]
    async fn an_owner_is_refused_what_is_too_many_and_others_are_not() {
        let echo = async |asked: Request<Answer>| {
            Ok::<_, Infallible>(Response::new(asked.into_body().await.unwrap_or_default()))
        };
        let service = Crowd.layer(service_fn(echo));
        let (flood, other) = (Asking::of(1, 1), Asking::of(1, 1));
        let (answer, first) = of(&flood);
        let mut first = pin!(service.clone().oneshot(first));
        assert!(poll!(&mut first).is_pending());
        let refused = service.clone().oneshot(of(&flood).1).await.unwrap();
        assert_eq!(refused.headers().get("grpc-status").unwrap(), "8");
        let (others_is, others) = of(&other);
        others_is.send(3).unwrap();
        assert_eq!(service.clone().oneshot(others).await.unwrap().into_body(), 3);
        answer.send(1).unwrap();
        assert_eq!(first.await.unwrap().into_body(), 1);
        let (again_is, again) = of(&flood);
        again_is.send(2).unwrap();
        assert_eq!(service.oneshot(again).await.unwrap().into_body(), 2);
    }

    #[tokio::test]
    async fn what_is_asked_beyond_the_turns_waits_until_one_is_answered() {
        let asking = Asking::of(1, 8);
        let first = asking.turn().await;
        let mut second = pin!(asking.turn());
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(second.await.is_some());
    }
}
