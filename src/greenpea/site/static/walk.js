// The walk through a decision tree, as plain values: no page, no network. The same rules as greenpea/site/passes.py.
//
// A tree is {first, questions: {slug: {kind, next, answers: {slug: next}}}}; a walk is {at, answers}: `at` the slug of
// the question shown, or null when all are answered; `answers` question → list of answers, later ones kept.

const has = (object, key) => Object.hasOwn(object, key);

/** Return the walk at its beginning. */
export function begin(tree) {
  return { at: tree.first, answers: {} };
}

/** Return the question that follows `question` when `given` is answered, or null at the end. */
export function follower(tree, question, given) {
  const { kind, next, answers } = tree.questions[question];
  return (kind === "multiple" ? next : answers[given[0]]) ?? null;
}

/** Return the questions before `at`, first to last. */
export function path(tree, walk) {
  const passed = [];
  let question = tree.first;
  while (question !== null && question !== walk.at && has(walk.answers, question)) {
    passed.push(question);
    question = follower(tree, question, walk.answers[question]);
  }
  return passed;
}

/** Return what was answered to the question shown, on an earlier visit: null where it was not. */
export function given(walk) {
  return has(walk.answers, walk.at) ? walk.answers[walk.at] : null;
}

/** Answer the question shown and go on. Later answers stay, unless another question follows than before. */
export function answer(tree, walk, chosen) {
  const next = follower(tree, walk.at, chosen);
  const same = has(walk.answers, walk.at) && follower(tree, walk.at, walk.answers[walk.at]) === next;
  const kept = same ? { ...walk.answers } : pick(walk.answers, path(tree, walk));
  kept[walk.at] = [...chosen];
  return { at: next, answers: kept };
}

/** Go back to the question before; at the first one, stay. */
export function back(tree, walk) {
  const passed = path(tree, walk);
  return passed.length ? { ...walk, at: passed.at(-1) } : walk;
}

/** Go to a question already passed. */
export function goTo(walk, question) {
  return { ...walk, at: question };
}

/** Return question → answers of the questions passed, in their order: what is sent. */
export function annotations(tree, walk) {
  return pick(walk.answers, path(tree, walk));
}

function pick(answers, questions) {
  return Object.fromEntries(questions.map((question) => [question, answers[question]]));
}
