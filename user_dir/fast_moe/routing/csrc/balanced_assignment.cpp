// Exact balanced assignment of tokens to groups: every group gets floor(T/G) or ceil(T/G) of
// the T tokens, and the summed score is the largest possible. user_dir/fast_moe/routing/assignment.py
// is the interface and holds the same algorithm in torch.
//
// Successive shortest paths on a small graph. Its nodes are the groups and one more, EXTRA,
// that hands out the T mod G places beyond floor(T/G), at most one to a group. Moving token t
// from a to b costs score(t, a) - score(t, b), and the arc a -> b costs what its cheapest token
// costs. Prices (the potentials of the minimum-cost flow) start from those of every eighth
// token, solved the same way, so that nearly all tokens already stand where they will stay:
// putting each where its score plus the group's price is highest is optimal for the counts it
// gives, and every path then moves one token too many from a group to one that lacks some.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kSampleStride = 8;
constexpr int64_t kSmallestSample = 64;

// A token that would move, and what moving it costs; cheapest first, ties by token.
struct Move {
  double cost;
  int64_t token;
};

bool later(const Move& a, const Move& b) {
  return a.cost != b.cost ? a.cost > b.cost : a.token > b.token;
}

class Solver {
 public:
  // The scores of token t start at scores[t * stride].
  Solver(const double* scores, int64_t num_tokens, int64_t num_groups, int64_t stride,
         std::vector<double>& prices)
      : scores_(scores),
        num_tokens_(num_tokens),
        num_groups_(num_groups),
        stride_(stride),
        prices_(prices),
        floor_(num_tokens / num_groups),
        extra_left_(num_tokens % num_groups),
        group_of_(num_tokens),
        count_(num_groups, 0),
        has_extra_(num_groups, 0),
        moves_(num_groups * num_groups) {
    place_all();
    while (move_one()) {
    }
  }

  const std::vector<int64_t>& groups() const { return group_of_; }

 private:
  double score(int64_t token, int64_t group) const { return scores_[token * stride_ + group]; }
  std::vector<Move>& moves(int64_t from, int64_t to) { return moves_[from * num_groups_ + to]; }
  int64_t excess(int64_t group) const { return count_[group] - floor_ - has_extra_[group]; }

  void place_all() {
    for (int64_t token = 0; token < num_tokens_; ++token) {
      int64_t best = 0;
      double best_value = score(token, 0) + prices_[0];
      for (int64_t group = 1; group < num_groups_; ++group) {
        const double value = score(token, group) + prices_[group];
        // Ties go where there are fewest, or alike tokens would all be placed wrongly.
        if (value > best_value || (value == best_value && count_[group] < count_[best])) {
          best = group;
          best_value = value;
        }
      }
      group_of_[token] = best;
      ++count_[best];
      for (int64_t group = 0; group < num_groups_; ++group) {
        if (group != best) moves(best, group).push_back({score(token, best) - score(token, group), token});
      }
    }
    for (auto& heap : moves_) std::make_heap(heap.begin(), heap.end(), later);
    extra_price_ = *std::min_element(prices_.begin(), prices_.end());
  }

  // The cheapest token to move, after forgetting those that have left; nullptr if there is none.
  const Move* cheapest(int64_t from, int64_t to) {
    auto& heap = moves(from, to);
    while (!heap.empty() && group_of_[heap.front().token] != from) {
      std::pop_heap(heap.begin(), heap.end(), later);
      heap.pop_back();
    }
    return heap.empty() ? nullptr : &heap.front();
  }

  // One shortest path from a group with too many tokens to a place that lacks one.
  bool move_one() {
    while (source_ < num_groups_ && excess(source_) <= 0) ++source_;
    if (source_ == num_groups_) return false;
    const int64_t extra = num_groups_;
    distance_.assign(num_groups_ + 1, kInfinity);
    parent_.assign(num_groups_ + 1, -1);
    is_done_.assign(num_groups_ + 1, 0);
    distance_[source_] = 0;
    int64_t target = -1;
    while (target < 0) {
      int64_t node = -1;
      for (int64_t other = 0; other <= num_groups_; ++other) {
        if (!is_done_[other] && (node < 0 || distance_[other] < distance_[node])) node = other;
      }
      is_done_[node] = 1;
      if (node == extra ? extra_left_ > 0 : excess(node) < 0) {
        target = node;
      } else if (node == extra) {
        for (int64_t group = 0; group < num_groups_; ++group) {
          if (has_extra_[group]) reach(extra, group, extra_price_ - prices_[group]);
        }
      } else {
        for (int64_t group = 0; group < num_groups_; ++group) {
          if (is_done_[group]) continue;
          const Move* move = cheapest(node, group);
          if (move) reach(node, group, move->cost + prices_[node] - prices_[group]);
        }
        if (!has_extra_[node]) reach(node, extra, prices_[node] - extra_price_);
      }
    }
    const double length = distance_[target];
    for (int64_t group = 0; group < num_groups_; ++group) {
      prices_[group] += std::min(distance_[group], length);
    }
    extra_price_ += std::min(distance_[extra], length);
    follow(target);
    return true;
  }

  void reach(int64_t from, int64_t to, double cost) {
    // Rounding may leave a cost a little below zero.
    const double distance = distance_[from] + std::max(cost, 0.0);
    if (!is_done_[to] && distance < distance_[to]) {
      distance_[to] = distance;
      parent_[to] = from;
    }
  }

  void follow(int64_t target) {
    const int64_t extra = num_groups_;
    if (target == extra) --extra_left_;
    for (int64_t to = target; parent_[to] >= 0; to = parent_[to]) {
      const int64_t from = parent_[to];
      if (to == extra) {
        has_extra_[from] = 1;
      } else if (from == extra) {
        has_extra_[to] = 0;
      } else {
        move_token(cheapest(from, to)->token, from, to);
      }
    }
  }

  void move_token(int64_t token, int64_t from, int64_t to) {
    group_of_[token] = to;
    --count_[from];
    ++count_[to];
    for (int64_t group = 0; group < num_groups_; ++group) {
      if (group == to) continue;
      auto& heap = moves(to, group);
      heap.push_back({score(token, to) - score(token, group), token});
      std::push_heap(heap.begin(), heap.end(), later);
    }
  }

  const double* scores_;
  const int64_t num_tokens_, num_groups_, stride_;
  std::vector<double>& prices_;
  const int64_t floor_;
  int64_t extra_left_;
  double extra_price_ = 0;
  int64_t source_ = 0;
  std::vector<int64_t> group_of_, count_;
  std::vector<char> has_extra_;
  std::vector<std::vector<Move>> moves_;
  std::vector<double> distance_;
  std::vector<int64_t> parent_;
  std::vector<char> is_done_;
};

void start_prices(const double* scores, int64_t num_tokens, int64_t num_groups, int64_t stride,
                  std::vector<double>& prices) {
  const int64_t sampled = num_tokens / kSampleStride;
  if (sampled < kSmallestSample || sampled < num_groups) return;
  start_prices(scores, sampled, num_groups, stride * kSampleStride, prices);
  Solver(scores, sampled, num_groups, stride * kSampleStride, prices);
}

void solve(const double* scores, int64_t num_tokens, int64_t num_groups, int64_t* groups) {
  std::vector<double> prices(num_groups, 0.0);
  start_prices(scores, num_tokens, num_groups, num_groups, prices);
  const Solver solver(scores, num_tokens, num_groups, num_groups, prices);
  std::copy(solver.groups().begin(), solver.groups().end(), groups);
}

// solve(address of (T, G) doubles, T, G, address of T int64): all finite, checked by the caller.
PyObject* solve_at(PyObject*, PyObject* args) {
  unsigned long long scores = 0, groups = 0;
  long long num_tokens = 0, num_groups = 0;
  if (!PyArg_ParseTuple(args, "KLLK", &scores, &num_tokens, &num_groups, &groups)) return nullptr;
  bool has_memory = true;
  Py_BEGIN_ALLOW_THREADS
  try {
    solve(reinterpret_cast<const double*>(scores), num_tokens, num_groups,
          reinterpret_cast<int64_t*>(groups));
  } catch (const std::bad_alloc&) {
    has_memory = false;
  }
  Py_END_ALLOW_THREADS
  if (!has_memory) return PyErr_NoMemory();
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"solve", solve_at, METH_VARARGS, "solve(scores, num_tokens, num_groups, groups)"},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_balanced_assignment", nullptr, -1, methods,
};

}  // namespace

PyMODINIT_FUNC PyInit__balanced_assignment() { return PyModule_Create(&definition); }
