"""The calls of the agent's service `Leases`, by name and type, as agent.proto has them. It carries, and decides nothing."""

from __future__ import annotations

from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod

from memboss_client import agent_pb2 as pb

_SERVICE = "/memboss.agent.v1.Leases/"


class Calls:
    """The calls on one channel."""

    def __init__(self, channel: Channel) -> None:
        self.acquire = UnaryStreamMethod(channel, _SERVICE + "Acquire", pb.AcquireRequest, pb.LeaseEvent)
        self.resume = UnaryStreamMethod(channel, _SERVICE + "Resume", pb.ResumeRequest, pb.LeaseEvent)
        self.release = UnaryUnaryMethod(channel, _SERVICE + "Release", pb.LeaseRequest, pb.ReleaseResponse)
        self.dry_run = UnaryUnaryMethod(channel, _SERVICE + "DryRun", pb.AcquireRequest, pb.DryRunResponse)
        self.resize = UnaryUnaryMethod(channel, _SERVICE + "Resize", pb.ResizeRequest, pb.LeaseEvent)
        self.move = UnaryUnaryMethod(channel, _SERVICE + "Move", pb.MoveRequest, pb.LeaseEvent)
        self.status = UnaryUnaryMethod(channel, _SERVICE + "Status", pb.StatusRequest, pb.StatusResponse)
        self.explain = UnaryUnaryMethod(channel, _SERVICE + "Explain", pb.ExplainRequest, pb.ExplainResponse)
