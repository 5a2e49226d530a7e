//! How many requests of one owner are answered at once, over all its connections. What is above waits for its turn here, and not in the node's inbox, where it
//! would keep others waiting. It looks into no request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use super::peer::Known;

/// As many as the node's inbox holds: what others wait for them is the time that these take.
pub(super) const AT_ONCE: usize = 256;

/// Lets each owner's requests through in turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns;

/// A service that is asked in turn.
#[derive(Clone, Debug)]
pub(super) struct InTurn<S>(S);

impl<S> Layer<S> for Turns {
    type Service = InTurn<S>;

    fn layer(&self, inner: S) -> InTurn<S> {
        InTurn(inner)
    }
}

impl<S, B> Service<Request<B>> for InTurn<S>
where
    S: Service<Request<B>, Future: Send> + Clone + Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let turns = request.extensions().get::<Known>().map(|known| known.turns.clone());
        // The one that said that it is ready; its clone may not be.
        let clone = self.0.clone();
        let mut ready = std::mem::replace(&mut self.0, clone);
        Box::pin(async move {
            let _turn = match turns {
                // It is never closed.
                Some(turns) => turns.acquire_owned().await.ok(),
                None => None,
            };
            ready.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

    use futures::poll;
    use tokio::sync::{Semaphore, oneshot};
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    type Answer = oneshot::Receiver<u8>;

    fn of(turns: &Arc<Semaphore>) -> (oneshot::Sender<u8>, Request<Answer>) {
        let (answer, asked) = oneshot::channel();
        let mut request = Request::new(asked);
        request.extensions_mut().insert(Known::with(turns.clone()));
        (answer, request)
    }

    #[tokio::test]
    async fn what_an_owner_asks_beyond_its_turns_waits_and_others_do_not_wait_for_it() {
        let service =
            Turns.layer(service_fn(async |asked: Request<Answer>| Ok::<_, Infallible>(asked.into_body().await)));
        let (flood, other) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let [(first_is, first), (second_is, second), (others_is, others)] = [of(&flood), of(&flood), of(&other)];
        let mut first = pin!(service.clone().oneshot(first));
        let mut second = pin!(service.clone().oneshot(second));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        second_is.send(2).unwrap();
        others_is.send(3).unwrap();
        assert_eq!(poll!(&mut second), Poll::Pending, "it is not its turn");
        assert_eq!(service.oneshot(others).await, Ok(Ok(3)));
        first_is.send(1).unwrap();
        assert_eq!((first.await, second.await), (Ok(Ok(1)), Ok(Ok(2))));
        assert_eq!(flood.available_permits(), 1);
    }
}
