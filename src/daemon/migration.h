// The calls of the control API that compare both sides before a live migration, as functions on the object graph.
// Thread: control.
#pragma once

#include "base/result.h"
#include "daemon/graph.h"

#include <control/causeway.pb.h>

namespace causeway::daemon {

/// Errc::not_found: no such port; Errc::gone: what it is cannot be read now.
Result<control::v1::MigrationNeedsResponse> migration_needs(const Graph& graph,
                                                            const control::v1::MigrationNeedsRequest& request);
/// Errc::invalid_value: the needs make no sense; Errc::gone: what the port is cannot be read now.
Result<control::v1::CanTakeResponse> can_take(const Graph& graph, const control::v1::CanTakeRequest& request);

}  // namespace causeway::daemon
