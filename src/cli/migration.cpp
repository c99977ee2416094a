#include "cli/migration.h"

#include "cli/client.h"
#include "cli/command.h"
#include "cli/json.h"
#include "cli/qemu_arguments.h"

#include <fmt/format.h>
#include <google/protobuf/struct.pb.h>

#include <control/causeway.pb.h>

#include <array>
#include <cstdio>
#include <string_view>

namespace causeway::cli {
namespace {

constexpr std::size_t kMostInput = std::size_t{1} << 20;
constexpr std::size_t kMostSaid = 1000;  // bytes of what another program says that are repeated

bool is_socket(const std::string& host) {
  return host.find('/') != std::string::npos;
}

std::string trimmed(const std::string& text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

/// With an obstacle the command ends with a status of 1, but has answered.
Result<api::CanTakeResponse> answer_of(const std::string& host, const CommandOutcome& outcome) {
  api::CanTakeResponse answer;
  const auto parsed = parse_json(outcome.output, answer);
  if (parsed && answer.can_take() == answer.obstacle().empty()) return answer;
  if (outcome.status == 0) {
    return fail(Errc::peer_violation, fmt::format("'causeway port can-take' on {} answers with something else: '{}'",
                                                  host, trimmed(outcome.output).substr(0, kMostSaid)));
  }
  const std::string said = trimmed(outcome.errors).substr(0, kMostSaid);
  return fail(Errc::gone, fmt::format("cannot ask {} by ssh, which ended with status {}: {}", host, outcome.status,
                                      said.empty() ? "it said nothing" : said));
}

Result<api::CanTakeResponse> ask(const Destination& to, const api::GuestNeeds& needs) {
  if (is_socket(to.host)) return Client(to.host).can_take(to.port, needs);
  CW_TRY(auto words, ssh_words(to));
  CW_TRY(const auto input, json(needs));
  CW_TRY(const auto outcome, run_command(std::move(words), input));
  return answer_of(to.host, outcome);
}

}  // namespace

Result<std::vector<std::string>> ssh_words(const Destination& to) {
  for (const auto& name : {to.host, to.port}) {
    if (!name.empty() && name.front() != '-') continue;
    return fail(Errc::invalid_value, fmt::format("'{}' is no name of a host or port", name));
  }
  // ssh gives a shell there what it is given here.
  auto line = shell_line({"causeway", "--json", "port", "can-take", to.port});
  line.pop_back();
  return std::vector<std::string>{"ssh", to.host, std::move(line)};
}

Result<std::string> migration_obstacle(const std::string& socket, const std::string& port, const Destination& to) {
  if (!is_socket(to.host)) {
    CW_CHECK(ssh_words(to));
  }
  CW_TRY(const auto here, Client(socket).migration_needs(port));
  if (!here.obstacle().empty()) return here.obstacle();
  CW_TRY(const auto there, ask(to, here.needs()));
  return there.obstacle();
}

Result<std::string> migration_verdict(const std::string& obstacle) {
  google::protobuf::Struct verdict;
  (*verdict.mutable_fields())["can_migrate"].set_bool_value(obstacle.empty());
  (*verdict.mutable_fields())["obstacle"].set_string_value(obstacle);
  return json(verdict);
}

Result<void> read_needs(api::GuestNeeds& needs) {
  std::string text;
  std::array<char, 4096> part{};
  while (const std::size_t count = std::fread(part.data(), 1, part.size(), stdin)) {
    text.append(part.data(), count);
    if (text.size() > kMostInput) return fail(Errc::invalid_value, "standard input: more than any needs are");
  }
  auto parsed = parse_json(text, needs);
  if (!parsed) return fail(std::move(parsed).error().context("standard input"));
  return {};
}

}  // namespace causeway::cli
