// The calls of the control API, as functions on the object graph. They know nothing of gRPC. Thread: control.
#pragma once

#include "base/result.h"
#include "daemon/graph.h"

#include <control/causeway.pb.h>

#include <memory>
#include <string_view>

namespace causeway::daemon {

/// Has the Devices of a port, or of all ports when `name` is empty, fetch their counters; whoever holds a copy of
/// `token` last has fetched the last of them.
void refresh_counters(const Graph& graph, std::string_view name, const std::shared_ptr<void>& token);
control::v1::ListPortsResponse list_ports(const Graph& graph);
/// Errc::not_found: no such port.
Result<control::v1::ShowPortResponse> show_port(const Graph& graph, const control::v1::ShowPortRequest& request);
/// Errc::not_found: no such port, queue or Device; Errc::invalid_value: no queue was named; or what Port::rebind says.
Result<control::v1::RebindResponse> rebind(const Graph& graph, const control::v1::RebindRequest& request);
/// Errc::not_found: no such port; Errc::not_supported: it has no disk.
Result<control::v1::ResizeResponse> resize(const Graph& graph, const control::v1::ResizeRequest& request);
/// Errc::not_found: no such port; Errc::busy: it serves.
Result<control::v1::DiscardStateResponse> discard_state(Graph& graph, const control::v1::DiscardStateRequest& request);

}  // namespace causeway::daemon
